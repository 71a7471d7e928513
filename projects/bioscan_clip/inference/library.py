"""A reference library: embeddings and names of known specimens, in a folder.

``library.json`` says what belongs to the library; every change writes new files first and then
replaces it, so that whoever is killed leaves the library as it was. Beside it lie

- segments, one per build or addition, see :mod:`projects.bioscan_clip.inference.segments`;
- ``removed-*.npy``, a bit per specimen, once some have been removed;
- ``index-*.faiss``, for libraries whose exact search takes too long.
"""

import copy
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.inference.searching import (
    Found,
    build_index,
    nearest_of,
    search_exactly,
    search_index,
)
from projects.bioscan_clip.inference.segments import (
    Feature,
    Floats,
    Ints,
    Mask,
    Segments,
    normalized,
    unique_name,
    write_segment,
)
from projects.bioscan_clip.scoring.neighbours import blocks
from projects.bioscan_clip.scoring.restriction import Restriction, allowed_keys
from projects.bioscan_clip.scoring.specimens import Specimens

if TYPE_CHECKING:
    from projects.bioscan_clip.inference.identify import Queries

FORMAT_VERSION: Final = 1
EXACT_UP_TO: Final = 1_000_000
"""Specimens up to which all are compared; larger libraries get an index."""

KMERS_UP_TO: Final = 100_000
"""Specimens up to which barcodes are found by shared k-mers too, which takes memory."""

_FILE: Final = "library.json"
_COPIED_AT_ONCE: Final = 1 << 16


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
        self._segments = self._read_segments()
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
        return self._segments.features

    @property
    def labels(self) -> Ints:
        """Codes of order, family, genus and species: int64, shape ``(N, 4)``, removed ones too."""
        return self._segments.labels

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
        taken: pd.DataFrame = self._segments.table.take(pa.array(rows)).to_pandas(
            types_mapper={pa.string(): pd.StringDtype()}.get
        )
        return taken

    def barcodes(self, rows: Ints) -> list[str]:
        """Return the barcodes of some rows; empty where a specimen has none."""
        return self._segments.barcodes(rows)

    def having_id(self, ids: Iterable[str]) -> Mask:
        """Say which rows that can be found have one of some sample or process ids."""
        wanted = pa.array(list(ids), pa.string())
        columns = [self._segments.table[name] for name in ("sampleid", "processid")]
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
        rows = np.flatnonzero(self._kept & self._segments.having(feature))
        k = min(k, len(rows))
        indexed = self.about["index"].get("rgb" if feature == "both" else feature)
        if indexed is None or len(rows) <= self.about["exact_up_to"]:
            return search_exactly(self._segments, unit, feature, rows, k)
        among = rows[rows >= indexed["rows"]]
        added = search_exactly(self._segments, unit, feature, among, k)
        by_index = search_index(
            self.folder, self._segments, self._kept, self.about["index"], unit, feature, k
        )
        return nearest_of((by_index, added), k)

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
        if not self._segments.count_barcodes() or len(self._segments) > KMERS_UP_TO:
            return np.empty((len(barcodes), 0), dtype=np.int64)
        return self._segments.kmers.search(barcodes, self._kept & self._segments.having("dna"), k)

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
        keys = self._segments.read(distinct, feature)[places.reshape(rows.shape)]
        similarities: Floats = np.einsum("qd,qkd->qk", unit, keys)
        similarities[(rows < 0) | ~self._segments.having(feature)[rows]] = -np.inf
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
        name = f"removed-{unique_name()}.npy"
        packed = np.packbits(~self._kept)
        np.save(self.folder / name, packed)
        self.about["removed"] = name
        self._commit()
        return int(chosen.sum())

    def compact(self) -> None:
        """Write all segments as one, without the removed specimens, and make the index anew."""
        rows = np.flatnonzero(self._kept)
        parts = (
            self._segments.specimens(rows[part]) for part in blocks(len(rows), _COPIED_AT_ONCE)
        )
        anew: dict[str, Any] = {"segments": [], "removed": None, "index": {}}
        merged = ReferenceLibrary(self.folder, self.about | anew)
        merged._append(parts)
        self.about, self._kept, self._segments = merged.about, merged._kept, merged._segments
        self._commit()

    def set_calibration(self, calibration: dict[str, Any]) -> None:
        """Keep what turns similarities into names with a confidence, by kind of query."""
        self.about["calibration"] = calibration
        self._commit()

    def _append(self, specimens: Specimens | Iterable[Specimens]) -> None:
        parts = [specimens] if isinstance(specimens, Specimens) else specimens
        for part in parts:
            if len(part):
                self.about["dimension"], segment = write_segment(
                    self.folder, part, self.about["dimension"]
                )
                self.about["segments"].append(segment)
        self._segments = self._read_segments()
        self._kept = ~self._removed()
        if self._kept.size > self.about["exact_up_to"] and not self.about["index"]:
            for name in ("rgb", "dna"):
                if name in self.features:
                    self.about["index"][name] = build_index(
                        self.folder, self._segments, self._kept, name
                    )

    def _commit(self) -> None:
        """Make what was written the library, and delete what no longer belongs to it."""
        if not self._is_whole:
            raise ValueError("A library restricted to some taxa cannot be changed; open it anew.")
        text = json.dumps(self.about, indent=1) + "\n"
        write_whole(self.folder / _FILE, lambda path: path.write_text(text, "utf-8"))
        belongs = {segment["name"] for segment in self.about["segments"]}
        belongs |= {index["file"] for index in self.about["index"].values()}
        belongs.add(self.about["removed"])
        for path in self.folder.iterdir():
            if _is_ours(path) and path.name not in belongs and path.name != _FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _read_segments(self) -> Segments:
        return Segments(self.folder, tuple(self.about["segments"]), self.about["dimension"])

    def _removed(self) -> Mask:
        count = len(self._segments)
        removed = np.zeros(count, dtype=np.bool_)
        if self.about["removed"] is not None:
            packed = np.load(self.folder / self.about["removed"])
            before = np.unpackbits(packed)[:count].astype(np.bool_)
            removed[: len(before)] = before
        return removed


def _is_ours(path: Path) -> bool:
    return path.name.startswith(("segment-", "removed-", "index-", f"{_FILE}."))


def _strange(folder: Path) -> bool:
    return not folder.is_dir() or any(not _is_ours(path) for path in folder.iterdir())
