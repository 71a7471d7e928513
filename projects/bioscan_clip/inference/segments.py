"""Known specimens on disk: what a reference library reads in place, row by row.

A segment is a folder that one build or addition has written, and nobody changes: ``rgb.npy`` and
``dna.npy`` (float16, unit length), ``has_rgb.npy`` and ``has_dna.npy`` (who has one),
``labels.npy`` (codes of the taxa), ``barcodes.npy``, and ``table.parquet`` with names, ids and
places.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.inference.kmers import KmerIndex
from projects.bioscan_clip.scoring.neighbours import blocks
from projects.bioscan_clip.scoring.specimens import Specimens

COLUMNS: Final = (*IDENTIFIERS, *RANKS, "bin", "place", "licence", "photo")
"""Columns of a library's table: strings, missing where unknown. Barcodes lie apart."""

Feature = Literal["rgb", "dna", "both"]
"""What of the specimens is compared: photos, barcodes, or a photo followed by a barcode."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_BARCODES_AT_ONCE: Final = 1024


class Segments:
    """The specimens of several segments, whose rows are counted through.

    Parameters
    ----------
    folder : pathlib.Path
        Where the segments lie.
    described : sequence of mapping
        What :func:`write_segment` returned of each.
    dimension : int or None
        Of the embeddings; None if there is no segment.
    """

    def __init__(
        self, folder: Path, described: Sequence[Mapping[str, Any]], dimension: int | None
    ) -> None:
        self._described = described
        self._dimension = dimension
        self._paths = [folder / segment["name"] for segment in described]
        sizes = [int(segment["rows"]) for segment in described]
        self._bounds = np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._bounds[-1])

    @property
    def features(self) -> tuple[Feature, ...]:
        """What specimens have."""
        held: list[Feature] = [
            name for name in ("rgb", "dna") if any(segment[name] for segment in self._described)
        ]
        return (*held, "both") if len(held) == 2 else tuple(held)

    def count_barcodes(self) -> int:
        """Return how many specimens have a barcode to align."""
        return sum(segment["barcodes"] for segment in self._described)

    @cached_property
    def labels(self) -> Ints:
        """Codes of order, family, genus and species: int64, shape ``(N, 4)``."""
        parts = [np.load(path / "labels.npy", mmap_mode="r") for path in self._paths]
        return np.concatenate([np.empty((0, len(RANKS)), dtype=np.int64), *parts])

    @cached_property
    def table(self) -> pa.Table:
        """Names, ids and places, with the columns `COLUMNS`."""
        return pa.concat_tables([pq.read_table(path / "table.parquet") for path in self._paths])

    @cached_property
    def kmers(self) -> KmerIndex:
        """Which k-mers the barcodes have."""
        every = np.arange(len(self))
        parts = blocks(len(every), _BARCODES_AT_ONCE)
        return KmerIndex(self.barcodes(every[part]) for part in parts)

    def having(self, feature: Feature) -> Mask:
        """Say which rows have a feature."""
        if feature == "both":
            return self.having("rgb") & self.having("dna")
        return self._present[feature]

    def barcodes(self, rows: Ints) -> list[str]:
        """Return the barcodes of some rows; empty where a specimen has none."""
        segments = np.searchsorted(self._bounds, rows, side="right") - 1
        found = np.full(len(rows), b"", dtype=object)
        for segment in np.unique(segments):
            ours = segments == segment
            local = rows[ours] - self._bounds[segment]
            found[ours] = self._barcodes[segment][local].astype(object)
        return [barcode.decode() for barcode in found]

    def read(self, rows: Ints, feature: Feature) -> Floats:
        """Read vectors of some rows, in ascending order: float32, zeros where there are none."""
        if feature == "both":
            return np.concatenate([self.read(rows, "rgb"), self.read(rows, "dna")], axis=1)
        vectors = np.zeros((len(rows), self._dimension or 0), dtype=np.float32)
        places = np.searchsorted(rows, self._bounds)
        for segment, (first, last) in enumerate(pairwise(places.tolist())):
            held = self._vectors[segment].get(feature)
            if held is None or first == last:
                continue
            local = rows[first:last] - self._bounds[segment]
            whole = local[-1] - local[0] + 1 == len(local)
            half = held[local[0] : local[-1] + 1] if whole else held[local]
            # Converts in several threads, 10 times as fast as NumPy.
            torch.from_numpy(vectors[first:last]).copy_(torch.from_numpy(half))
        return vectors

    def specimens(self, rows: Ints) -> Specimens:
        """Read everything about some rows, in ascending order."""
        vectors: dict[str, Any] = {
            name: torch.from_numpy(self.read(rows, name))
            for name in self.features
            if name != "both"
        }
        table = self.table.take(pa.array(rows)).to_pandas().assign(barcode=self.barcodes(rows))
        return Specimens(torch.from_numpy(self.labels[rows]), table=table, **vectors)

    @cached_property
    def _present(self) -> dict[str, Mask]:
        masks = {name: np.zeros(len(self), dtype=np.bool_) for name in ("rgb", "dna")}
        for start, path in zip(self._bounds[:-1], self._paths, strict=True):
            for name, mask in masks.items():
                if (path / f"has_{name}.npy").exists():
                    held = np.load(path / f"has_{name}.npy")
                    mask[start : start + len(held)] = held
        return masks

    @cached_property
    def _barcodes(self) -> list[npt.NDArray[np.bytes_]]:
        return [np.load(path / "barcodes.npy", mmap_mode="r") for path in self._paths]

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
            for path in self._paths
        ]


def write_segment(
    folder: Path, specimens: Specimens, dimension: int | None
) -> tuple[int | None, dict[str, Any]]:
    """Write specimens as a segment.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.
    specimens : Specimens
        See :meth:`~projects.bioscan_clip.inference.library.ReferenceLibrary.build`.
    dimension : int or None
        Of the embeddings that are there; None if any will do.

    Returns
    -------
    tuple of int and dict
        Dimension of the embeddings; and the segment's name, rows, and how many have what.

    Raises
    ------
    ValueError
        If embeddings have another dimension, or something is missing.
    """
    vectors = {name: getattr(specimens, name) for name in ("rgb", "dna")}
    vectors = {name: values for name, values in vectors.items() if values is not None}
    if not vectors or specimens.table is None:
        raise ValueError("Specimens of a library need a table, and embeddings rgb or dna.")
    name = f"segment-{unique_name()}"
    target, counts = folder / f"{name}.part", {"rgb": 0, "dna": 0}
    target.mkdir()
    for modality, values in vectors.items():
        unit = normalized(values.cpu().numpy())
        width = unit.shape[1]
        if dimension not in (None, width):
            raise ValueError(
                f"Embeddings `{modality}` have {width} dimensions, but the others of "
                f"{folder} have {dimension}."
            )
        dimension = width
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
    target.rename(folder / name)
    with_barcode = int((barcodes != b"").sum())
    return dimension, {"name": name, "rows": len(specimens), **counts, "barcodes": with_barcode}


def normalized(vectors: npt.NDArray[Any]) -> Floats:
    """Return vectors at unit length; those of zeros stay."""
    values = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = values / np.where(norms > 0, norms, 1)
    return unit


def unique_name() -> str:
    """Return a name that no other file has."""
    return uuid4().hex[:12]
