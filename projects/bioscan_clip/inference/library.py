"""A reference library: embeddings and names of known specimens, in a folder.

``library.json`` says what belongs to the library; every change writes new files first and then
replaces it, so that whoever is killed leaves the library as it was. Beside it lie

- segments, one per build or addition: ``rgb.npy`` and ``dna.npy`` (float16, unit length, read in
  place), ``labels.npy`` (codes of the taxa), ``barcodes.npy``, and ``table.parquet`` with names,
  ids and places;
- ``removed-*.npy``, a bit per specimen, once some have been removed;
- ``index-*.faiss``, for libraries whose exact search takes too long.
"""

import copy
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

import faiss
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.inference.kmers import KmerIndex
from projects.bioscan_clip.scoring.neighbours import Nearest, blocks
from projects.bioscan_clip.scoring.restriction import Restriction, allowed_keys
from projects.bioscan_clip.scoring.specimens import Specimens

if TYPE_CHECKING:
    from projects.bioscan_clip.inference.identify import Queries

FORMAT_VERSION: Final = 1
COLUMNS: Final = (*IDENTIFIERS, *RANKS, "bin", "place", "licence", "photo")
"""Columns of a library's table: strings, missing where unknown. Barcodes lie apart."""

EXACT_UP_TO: Final = 1_000_000
"""Specimens up to which all are compared; larger libraries get an index."""

KMERS_UP_TO: Final = 100_000
"""Specimens up to which barcodes are found by shared k-mers too, which takes memory."""

Feature = Literal["rgb", "dna", "both"]
"""What of the specimens is compared: photos, barcodes, or a photo followed by a barcode."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FILE: Final = "library.json"
_ROWS_AT_ONCE: Final = 8192
_QUERIES_AT_ONCE: Final = 1024
_INDEXED_AT_ONCE: Final = 1 << 16
_CANDIDATES: Final = 4  # times k, from the index, which are then compared exactly
_RECALL: Final = 0.98
_CHECKED: Final = 1000


@dataclass(frozen=True)
class Found:
    """The nearest specimens of each query, nearest first.

    Attributes
    ----------
    similarities : numpy.ndarray
        float32, shape ``(Q, K)``, cosine similarities, K no more than there are specimens; -inf
        where an index found fewer.
    rows : numpy.ndarray
        int64, shape ``(Q, K)``, rows of the library; -1 where an index found fewer.
    """

    similarities: Floats
    rows: Ints


class ReferenceLibrary:
    """Known specimens that queries are compared with; see :meth:`build` and :meth:`open`.

    Attributes
    ----------
    folder : pathlib.Path
        Where it lies.
    about : dict
        What ``library.json`` holds: counts, the model, calibration, sources.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        self._kept = ~self._removed()
        self._is_whole = True

    @classmethod
    def open(cls, folder: str | Path) -> "ReferenceLibrary":
        """Open a library; vectors stay on disk until they are compared.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is damaged, or of a later version.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no reference library (no {_FILE}); `bioscan-clip library build` "
                "makes one."
            )
        try:
            about = json.loads(path.read_text("utf-8"))
            version = about["format_version"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); build the library again.") from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{folder} is a library of format {version}, but this version of bioscan-clip "
                f"reads format {FORMAT_VERSION}; update it or build the library again."
            )
        return cls(Path(folder), about)

    @classmethod
    def build(
        cls,
        folder: str | Path,
        specimens: Specimens | Iterable[Specimens],
        model_hash: str,
        *,
        model: str = "",
        sources: Sequence[str] = (),
        force: bool = False,
        exact_up_to: int = EXACT_UP_TO,
    ) -> "ReferenceLibrary":
        """Write a library.

        Parameters
        ----------
        folder : str or pathlib.Path
            Where to. If a library is there already, it stays until the new one is complete.
        specimens : Specimens or iterable of Specimens
            Embeddings ``rgb`` and ``dna``, or one of them, where a row of zeros stands for a
            missing one; and a ``table`` with any of `COLUMNS` and ``barcode``.
        model_hash : str
            Of the model that made the embeddings; queries of another model are refused.
        model : str, optional
            Where that model is, for queries that are not embedded yet.
        sources : sequence of str, optional
            What the specimens are from, for the record.
        force : bool, default=False
            Whether a library that is there is replaced.
        exact_up_to : int, optional
            Specimens up to which there is no index.

        Returns
        -------
        ReferenceLibrary
            The library.

        Raises
        ------
        FileExistsError
            If there is one, and not `force`.
        ValueError
            If there are no specimens, or embeddings do not fit.
        """
        folder = Path(folder)
        if (folder / _FILE).exists() and not force:
            raise FileExistsError(f"{folder} is a library. Use --force to replace it.")
        if folder.exists() and not (folder / _FILE).exists() and _strange(folder):
            raise ValueError(f"{folder} holds other files; name a folder for the library alone.")
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format_version": FORMAT_VERSION,
            "version": importlib.metadata.version("bioscan-clip"),
            "model": {"hash": model_hash, "source": model},
            "dimension": None,
            "sources": list(sources),
            "segments": [],
            "removed": None,
            "exact_up_to": exact_up_to,
            "index": {},
            "calibration": {},
        }
        library = cls(folder, about)
        library._append(specimens)
        if not len(library):
            raise ValueError("There are no specimens to build a library of.")
        library._commit()
        return library

    def __len__(self) -> int:
        """Return the number of specimens that can be found."""
        return int(self._kept.sum())

    @property
    def model_hash(self) -> str:
        """Hash of the model whose embeddings these are."""
        return str(self.about["model"]["hash"])

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that change with every change of the library."""
        return hashlib.sha256((self.folder / _FILE).read_bytes()).hexdigest()

    @property
    def features(self) -> tuple[Feature, ...]:
        """By what specimens can be found."""
        held: list[Feature] = [
            name
            for name in ("rgb", "dna")
            if any(segment[name] for segment in self.about["segments"])
        ]
        return (*held, "both") if len(held) == 2 else tuple(held)

    @cached_property
    def labels(self) -> Ints:
        """Codes of order, family, genus and species: int64, shape ``(N, 4)``, removed ones too."""
        parts = [np.load(path / "labels.npy", mmap_mode="r") for path in self._paths()]
        return np.concatenate([np.empty((0, len(RANKS)), dtype=np.int64), *parts])

    @property
    def kept(self) -> Mask:
        """Which rows can be found: bool, shape ``(N,)``."""
        return self._kept

    def check_model(self, model_hash: str) -> None:
        """Refuse another model's embeddings, whose similarities would mean nothing."""
        if model_hash != self.model_hash:
            raise ValueError(
                f"{self.folder} was built with another model ({self.model_hash}) than this one "
                f"({model_hash}); name that model, or build the library again with this one."
            )

    def table(self, rows: Ints) -> pd.DataFrame:
        """Return names, ids and places of some rows, with the columns `COLUMNS`."""
        taken: pd.DataFrame = self._table.take(pa.array(rows)).to_pandas(
            types_mapper={pa.string(): pd.StringDtype()}.get
        )
        return taken

    def barcodes(self, rows: Ints) -> list[str]:
        """Return the barcodes of some rows; empty where a specimen has none."""
        starts = self._starts()
        segments = np.searchsorted(starts, rows, side="right") - 1
        found = np.full(len(rows), b"", dtype=object)
        for segment in np.unique(segments):
            ours = segments == segment
            found[ours] = self._barcodes[segment][rows[ours] - starts[segment]].astype(object)
        return [barcode.decode() for barcode in found]

    def having_id(self, ids: Iterable[str]) -> Mask:
        """Say which rows that can be found have one of some sample or process ids."""
        wanted = pa.array(list(ids), pa.string())
        columns = [self._table[name] for name in ("sampleid", "processid")]
        having = [pc.is_in(column, value_set=wanted).to_numpy() for column in columns]
        chosen: Mask = np.logical_or(*having) & self._kept
        return chosen

    def search(self, queries: Floats, feature: Feature, k: int = 10) -> Found:
        """Find the most similar specimens.

        Parameters
        ----------
        queries : numpy.ndarray
            Floating point, shape ``(Q, D)``; need not be normalised. For ``both``, shape
            ``(Q, 2 D)``, photo and barcode at unit length, each times its weight, so that the
            similarity is the weighted sum of theirs.
        feature : {"rgb", "dna", "both"}
            What of the specimens queries are compared with.
        k : int
            Specimens per query.

        Returns
        -------
        Found
            Exact, by float32 products, for up to `EXACT_UP_TO` specimens (also those that
            :meth:`restrict_to` keeps of a larger library); above, most of the nearest, by an index
            with exact re-ranking.

        Raises
        ------
        ValueError
            If the library has no such feature, or queries have another dimension.
        """
        unit = self._checked(queries, feature)
        rows = np.flatnonzero(self._kept & self._having(feature))
        indexed = self.about["index"].get("rgb" if feature == "both" else feature)
        if indexed is None or len(rows) <= self.about["exact_up_to"]:
            return self._search_exactly(unit, feature, rows, min(k, len(rows)))
        k = min(k, len(rows))
        added = self._search_exactly(unit, feature, rows[rows >= indexed["rows"]], k)
        return _nearest_of((self._search_index(unit, feature, k), added), k)

    def _checked(self, queries: Floats, feature: Feature) -> Floats:
        """Return queries that can be compared, or say why they cannot."""
        if feature not in self.features:
            raise ValueError(
                f"{self.folder} cannot be searched by {feature}; it has {', '.join(self.features)}."
            )
        width = self.about["dimension"] * (2 if feature == "both" else 1)
        if queries.ndim != 2 or queries.shape[1] != width:
            raise ValueError(
                f"Queries have shape {queries.shape}, but {self.folder} holds embeddings of "
                f"{self.about['dimension']} dimensions."
            )
        return np.asarray(queries, dtype=np.float32) if feature == "both" else normalized(queries)

    def search_barcodes(self, barcodes: Sequence[str], k: int) -> Ints:
        """Find the specimens whose barcodes share most k-mers with each query's.

        Parameters
        ----------
        barcodes : sequence of str
            Q barcodes.
        k : int
            Specimens per query.

        Returns
        -------
        numpy.ndarray
            int64, shape ``(Q, K)``, rows of the library in any order, -1 for none; K is 0 if there
            are no barcodes, or more specimens than `KMERS_UP_TO`.
        """
        if self._kmers is None:
            return np.empty((len(barcodes), 0), dtype=np.int64)
        return self._kmers.search(barcodes, self._kept & self._having("dna"), k)

    def similarity(self, queries: Floats, feature: Feature, rows: Ints) -> Floats:
        """Compare queries with given specimens.

        Parameters
        ----------
        queries, feature
            As for :meth:`search`.
        rows : numpy.ndarray
            int64, shape ``(Q, K)``, rows of the library, -1 for none.

        Returns
        -------
        numpy.ndarray
            float32, shape ``(Q, K)``; -inf where there is no specimen, or it lacks the feature.
        """
        unit = self._checked(queries, feature)
        distinct, places = np.unique(np.maximum(rows, 0), return_inverse=True)
        keys = self._read(distinct, feature)[places.reshape(rows.shape)]
        similarities: Floats = np.einsum("qd,qkd->qk", unit, keys)
        similarities[(rows < 0) | ~self._having(feature)[rows]] = -np.inf
        return similarities

    def restrict_to(self, taxa: Restriction) -> "ReferenceLibrary":
        """Return the library with only the specimens of some taxa, or of a checklist.

        Parameters
        ----------
        taxa : mapping, str or pathlib.Path
            See :func:`~projects.bioscan_clip.scoring.restriction.allowed_keys`.
        """
        return self.where(allowed_keys(torch.from_numpy(self.labels), taxa).numpy())

    def where(self, allowed: Mask) -> "ReferenceLibrary":
        """Return the library with only some rows; nothing is copied or written."""
        restricted = copy.copy(self)
        restricted._kept = self._kept & allowed
        restricted._is_whole = False
        return restricted

    def identify(self, queries: "Queries", precision: float = 0.95, top_k: int = 5) -> pd.DataFrame:
        """Name specimens; see :func:`projects.bioscan_clip.inference.identify.identify`."""
        from projects.bioscan_clip.inference.identify import identify

        return identify(self, queries, precision, top_k)

    def add(self, specimens: Specimens | Iterable[Specimens], model_hash: str) -> None:
        """Add specimens; parameters as for :meth:`build`.

        An index stays as it is, and what was added is compared exactly, until :meth:`compact`.
        """
        self.check_model(model_hash)
        self._append(specimens)
        self._commit()

    def remove(self, ids: Iterable[str]) -> int:
        """Remove the specimens with some sample or process ids.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        ValueError
            If an id is unknown; nothing is removed then.
        """
        wanted = set(ids)
        chosen = self.having_id(wanted)
        known = self.table(np.flatnonzero(chosen))[["sampleid", "processid"]]
        unknown = sorted(wanted.difference(*known.to_numpy(dtype=object)))
        if unknown:
            shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise ValueError(f"{self.folder} has no specimen {shown}; nothing was removed.")
        self._kept = self._kept & ~chosen
        name = f"removed-{_unique()}.npy"
        packed = np.packbits(~self._kept)
        np.save(self.folder / name, packed)
        self.about["removed"] = name
        self._commit()
        return int(chosen.sum())

    def compact(self) -> None:
        """Write all segments as one, without the removed specimens, and make the index anew."""
        rows = np.flatnonzero(self._kept)
        parts = (self._specimens(rows[part]) for part in blocks(len(rows), _INDEXED_AT_ONCE))
        anew: dict[str, Any] = {"segments": [], "removed": None, "index": {}}
        merged = ReferenceLibrary(self.folder, self.about | anew)
        merged._append(parts)
        self.about, self._kept = merged.about, merged._kept
        self._commit()

    def set_calibration(self, calibration: dict[str, Any]) -> None:
        """Keep what turns similarities into names with a confidence, by kind of query."""
        self.about["calibration"] = calibration
        self._commit()

    def _append(self, specimens: Specimens | Iterable[Specimens]) -> None:
        parts = [specimens] if isinstance(specimens, Specimens) else specimens
        for part in parts:
            if len(part):
                self.about["segments"].append(self._write_segment(part))
        self._forget()
        self._kept = ~self._removed()
        if self._kept.size > self.about["exact_up_to"] and not self.about["index"]:
            for name in ("rgb", "dna"):
                if name in self.features:
                    self.about["index"][name] = self._build_index(name)

    def _write_segment(self, specimens: Specimens) -> dict[str, Any]:
        vectors = {name: getattr(specimens, name) for name in ("rgb", "dna")}
        vectors = {name: values for name, values in vectors.items() if values is not None}
        if not vectors or specimens.table is None:
            raise ValueError("Specimens of a library need a table, and embeddings rgb or dna.")
        name = f"segment-{_unique()}"
        target, counts = self.folder / f"{name}.part", {"rgb": 0, "dna": 0}
        target.mkdir()
        for modality, values in vectors.items():
            unit = normalized(values.cpu().numpy())
            width = unit.shape[1]
            if self.about["dimension"] not in (None, width):
                raise ValueError(
                    f"Embeddings `{modality}` have {width} dimensions, but the others of "
                    f"{self.folder} have {self.about['dimension']}."
                )
            self.about["dimension"] = width
            has = unit.any(axis=1)
            counts[modality] = int(has.sum())
            np.save(target / f"has_{modality}.npy", has)
            np.save(target / f"{modality}.npy", unit.astype(np.float16))
        np.save(target / "labels.npy", specimens.labels.cpu().numpy().astype(np.int64))
        table = specimens.table.reindex(columns=[*COLUMNS, "barcode"]).astype("string")
        barcodes = table.pop("barcode").fillna("").to_numpy(dtype=bytes)
        np.save(target / "barcodes.npy", barcodes.astype(f"S{max(1, barcodes.dtype.itemsize)}"))
        schema = pa.schema([(column, pa.string()) for column in COLUMNS])
        pq.write_table(
            pa.Table.from_pandas(table, schema, preserve_index=False), target / "table.parquet"
        )
        target.rename(self.folder / name)
        with_barcode = int((barcodes != b"").sum())
        return {"name": name, "rows": len(specimens), **counts, "barcodes": with_barcode}

    def _commit(self) -> None:
        """Make what was written the library, and delete what no longer belongs to it."""
        if not self._is_whole:
            raise ValueError("A library restricted to some taxa cannot be changed; open it anew.")
        self._forget()
        text = json.dumps(self.about, indent=1) + "\n"
        write_whole(self.folder / _FILE, lambda path: path.write_text(text, "utf-8"))
        belongs = {segment["name"] for segment in self.about["segments"]}
        belongs |= {index["file"] for index in self.about["index"].values()}
        belongs.add(self.about["removed"])
        for path in self.folder.iterdir():
            if _is_ours(path) and path.name not in belongs and path.name != _FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _forget(self) -> None:
        """Forget what was read of files, as there are others now."""
        for name in ("labels", "_table", "_vectors", "_barcodes", "_present", "_kmers"):
            self.__dict__.pop(name, None)

    def _removed(self) -> Mask:
        count = sum(segment["rows"] for segment in self.about["segments"])
        removed = np.zeros(count, dtype=np.bool_)
        if self.about["removed"] is not None:
            packed = np.load(self.folder / self.about["removed"])
            before = np.unpackbits(packed)[:count].astype(np.bool_)
            removed[: len(before)] = before
        return removed

    def _paths(self) -> list[Path]:
        return [self.folder / segment["name"] for segment in self.about["segments"]]

    def _starts(self) -> Ints:
        sizes = [segment["rows"] for segment in self.about["segments"]]
        starts: Ints = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        return starts

    def _having(self, feature: Feature) -> Mask:
        """Say which rows have a feature."""
        if feature == "both":
            return self._having("rgb") & self._having("dna")
        return self._present[feature]

    @cached_property
    def _present(self) -> dict[str, Mask]:
        masks = {name: np.zeros(self._kept.size, dtype=np.bool_) for name in ("rgb", "dna")}
        for start, path in zip(self._starts(), self._paths(), strict=True):
            for name, mask in masks.items():
                if (path / f"has_{name}.npy").exists():
                    held = np.load(path / f"has_{name}.npy")
                    mask[start : start + len(held)] = held
        return masks

    @cached_property
    def _table(self) -> pa.Table:
        tables = [pq.read_table(path / "table.parquet") for path in self._paths()]
        return pa.concat_tables(tables)

    @cached_property
    def _kmers(self) -> KmerIndex | None:
        held = any(segment["barcodes"] for segment in self.about["segments"])
        if not held or self._kept.size > KMERS_UP_TO:
            return None
        every = np.arange(self._kept.size)
        return KmerIndex(self.barcodes(every[part]) for part in blocks(len(every), 1024))

    @cached_property
    def _barcodes(self) -> list[npt.NDArray[np.bytes_]]:
        return [np.load(path / "barcodes.npy", mmap_mode="r") for path in self._paths()]

    @cached_property
    def _vectors(self) -> list[dict[str, npt.NDArray[np.float16]]]:
        """Vectors of each segment, by modality, read in place."""
        return [
            {
                # PyTorch takes only arrays that could be written to: "c" never writes to the file.
                name: np.load(path / f"{name}.npy", mmap_mode="c")
                for name in ("rgb", "dna")
                if (path / f"{name}.npy").exists()
            }
            for path in self._paths()
        ]

    def _specimens(self, rows: Ints) -> Specimens:
        """Read everything about some rows, in ascending order."""
        vectors: dict[str, Any] = {
            name: torch.from_numpy(self._read(rows, name))
            for name in ("rgb", "dna")
            if name in self.features
        }
        table = self.table(rows).assign(barcode=self.barcodes(rows))
        return Specimens(torch.from_numpy(self.labels[rows]), table=table, **vectors)

    def _read(self, rows: Ints, feature: Feature) -> Floats:
        """Read vectors of some rows, in ascending order."""
        if feature == "both":
            return np.concatenate([self._read(rows, "rgb"), self._read(rows, "dna")], axis=1)
        starts = self._starts()
        vectors = np.zeros((len(rows), self.about["dimension"]), dtype=np.float32)
        bounds = np.searchsorted(rows, [*starts, self._kept.size])
        for segment, (first, last) in enumerate(pairwise(bounds.tolist())):
            held = self._vectors[segment].get(feature)
            if held is None or first == last:
                continue
            local = rows[first:last] - starts[segment]
            whole = local[-1] - local[0] + 1 == len(local)
            half = held[local[0] : local[-1] + 1] if whole else held[local]
            # Converts in several threads, 10 times as fast as NumPy.
            torch.from_numpy(vectors[first:last]).copy_(torch.from_numpy(half))
        return vectors

    def _search_exactly(self, unit: Floats, feature: Feature, rows: Ints, k: int) -> Found:
        """Compare all queries with all of some rows, in memory that does not grow with them."""
        nearest = Nearest(len(unit), k, torch.device("cpu"))
        queries = torch.from_numpy(unit)
        for part in blocks(len(rows), _ROWS_AT_ONCE):
            keys = torch.from_numpy(self._read(rows[part], feature))
            for some in blocks(len(queries), _QUERIES_AT_ONCE):
                nearest.add(queries[some] @ keys.T, some, part.start)
        found = nearest.found()
        return Found(found.similarities.numpy(), rows[found.keys.numpy()])

    def _search_index(self, unit: Floats, feature: Feature, k: int) -> Found:
        """Find candidates by the indexes, and compare these exactly."""
        names: tuple[Literal["rgb", "dna"], ...]
        names = ("rgb", "dna") if feature == "both" else (feature,)
        wanted = min(_CANDIDATES * k, len(self))
        candidates = np.concatenate(
            [
                self._candidates(part, self._having(feature), wanted, self.about["index"][name])
                for part, name in zip(np.split(unit, len(names), axis=1), names, strict=True)
            ],
            axis=1,
        )
        similarities = np.full(candidates.shape, -np.inf, dtype=np.float32)
        for query, rows in enumerate(candidates):
            distinct, places = np.unique(rows, return_index=True)
            known = distinct >= 0
            keys = self._read(distinct[known], feature)
            similarities[query, places[known]] = keys @ unit[query]
        return _nearest_of((Found(similarities, candidates),), k)

    def _candidates(
        self, unit: Floats, having: Mask, count: int, about: dict[str, Any]
    ) -> npt.NDArray[np.int64]:
        index: Any = faiss.read_index(str(self.folder / about["file"]), faiss.IO_FLAG_MMAP)
        wanted = (self._kept & having)[: about["rows"]]
        bits = np.packbits(wanted, bitorder="little")
        chosen = faiss.IDSelectorBitmap(about["rows"], faiss.swig_ptr(bits))  # type: ignore[call-arg]
        how = faiss.SearchParametersIVF(nprobe=about["visited"], sel=chosen)  # type: ignore[call-arg]
        rows: Ints = index.search(unit, count, params=how)[1]
        return rows

    def _build_index(self, feature: Literal["rgb", "dna"]) -> dict[str, Any]:
        """Sort vectors into lists around centres, and visit as many as recall needs."""
        count = self._kept.size
        lists = max(1, min(4 * isqrt(count), count // 39))  # FAISS wants 39 vectors a centre
        index: Any = faiss.index_factory(
            self.about["dimension"], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT
        )
        index.train(self._read(np.arange(0, count, max(1, count // (64 * lists))), feature))
        for part in blocks(count, _INDEXED_AT_ONCE):
            index.add(self._read(np.arange(part.start, part.stop), feature))
        name = f"index-{feature}-{_unique()}.faiss"
        faiss.write_index(index, str(self.folder / name))
        about: dict[str, Any] = {"file": name, "rows": count, "visited": max(1, lists // 64)}
        having = self._having(feature)
        present = np.flatnonzero(having & self._kept)
        queries = self._read(present[:: -(-len(present) // _CHECKED)], feature)
        exact = self._search_exactly(queries, feature, present, min(10, len(present))).rows
        while True:
            found = self._candidates(queries, having, _CANDIDATES * exact.shape[1], about)
            about["recall"] = float((exact[:, :, None] == found[:, None]).any(axis=2).mean())
            if about["recall"] >= _RECALL or about["visited"] >= lists:
                return about
            about["visited"] = min(2 * about["visited"], lists)


def _nearest_of(parts: Sequence[Found], k: int) -> Found:
    """Return the nearest of several findings."""
    similarities = np.concatenate([part.similarities for part in parts], axis=1)
    rows = np.concatenate([part.rows for part in parts], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(similarities, order, axis=1)
    return Found(best, np.where(np.isfinite(best), np.take_along_axis(rows, order, axis=1), -1))


def normalized(vectors: npt.NDArray[Any]) -> Floats:
    """Return vectors at unit length; those of zeros stay."""
    values = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = values / np.where(norms > 0, norms, 1)
    return unit


def _unique() -> str:
    return uuid4().hex[:12]


def _is_ours(path: Path) -> bool:
    return path.name.startswith(("segment-", "removed-", "index-", f"{_FILE}."))


def _strange(folder: Path) -> bool:
    return not folder.is_dir() or any(not _is_ours(path) for path in folder.iterdir())
