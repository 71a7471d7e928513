"""What a BIOSCAN HDF5 file holds, in numbers."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from projects.bioscan_clip.data_tools.checks.columns import split_groups
from projects.bioscan_clip.data_tools.checks.finding import blocks, text_at
from projects.bioscan_clip.data_tools.checks.photos import choose_photos
from projects.bioscan_clip.datasets.hdf5 import Column, PhotoStorage, open_file, photo_storage
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    IDENTIFIERS,
    IMAGE,
    IMAGE_LENGTH,
    RANKS,
)
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

BIN: Final = "BIN"
TAXA: Final = (*RANKS, BIN)
LISTED: Final = RANKS[:2]
"""Ranks with few enough taxa to show them by name."""

_PIXELS_PER_SPLIT = 500
_SEED = 0
_ID = IDENTIFIERS[0]


@dataclass(frozen=True)
class Description:
    """A file in numbers.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    size : int
        Its bytes.
    specimens : pandas.DataFrame
        One row per row of the file: `split`; codes of `sampleid`, of each rank and of the BIN, -1
        if unknown; `bases` (length of the barcode) and `has_n`; `jpeg_bytes`. Columns that the file
        lacks are missing here as well.
    pixels : pandas.DataFrame
        `split`, `width` and `height` of photos chosen at random.
    names : dict of str to dict of int to str
        Names of orders and families by their codes.
    storage : dict of str to PhotoStorage
        How each split with photos stores them.
    splits : list of str
        All splits, also those without rows.
    """

    path: Path
    size: int
    specimens: pd.DataFrame
    pixels: pd.DataFrame
    names: dict[str, dict[int, str]]
    storage: dict[str, PhotoStorage]
    splits: list[str]


def describe(path: Path) -> Description:
    """Read what a file holds, but for the photos, of which it reads a sample's headers.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file. Groups without a column of the schema are left out.

    Returns
    -------
    Description
        About 80 bytes per row of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, is incomplete or is being written, or has no split.
    """
    path = path.expanduser()
    with open_file(path) as file, path.open("rb", buffering=0) as raw:
        groups = {name: group for name, group in split_groups(file).items() if _is_split(group)}
        if not groups:
            raise ValueError(f"{path} holds no split, so that it is no BIOSCAN file.")
        tables = {name: _read_specimens(name, group) for name, group in groups.items()}
        return Description(
            path=path,
            size=path.stat().st_size,
            specimens=_joined(tables),
            pixels=pd.concat([_read_pixels(name, group, raw) for name, group in groups.items()]),
            names=_read_names(groups, tables),
            storage={
                name: photo_storage(group[IMAGE])
                for name, group in groups.items()
                if IMAGE in group
            },
            splits=list(groups),
        )


def _is_split(group: h5py.Group) -> bool:
    return any(name in group for name in (*RANKS, _ID, BARCODE))


def _read_specimens(split: str, group: h5py.Group) -> pd.DataFrame:
    table: dict[str, npt.NDArray[Any]] = {}
    for column in (_ID, *RANKS, *BIN_COLUMNS):
        if column in group:
            table[BIN if column in BIN_COLUMNS else column] = encode_column(group[column])
    if BARCODE in group:
        table |= _read_barcodes(group[BARCODE])
    if IMAGE_LENGTH in group:
        table["jpeg_bytes"] = group[IMAGE_LENGTH][:].astype(np.int32)
    return pd.DataFrame({"split": split, **table}).astype({"split": "category"})


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put the tables of all splits below each other, without a category per split going lost."""
    splits = pd.CategoricalDtype(list(tables))
    same = [table.astype({"split": splits}) for table in tables.values()]
    return pd.concat(same, ignore_index=True)


def _read_barcodes(column: h5py.Dataset) -> dict[str, npt.NDArray[Any]]:
    bases = np.empty(len(column), dtype=np.int32)
    has_n = np.empty(len(column), dtype=np.bool_)
    for start, block in blocks({BARCODE: column}):
        barcodes = block[BARCODE]
        rows = slice(start, start + len(barcodes))
        bases[rows] = np.char.str_len(barcodes)
        has_n[rows] = np.char.find(barcodes, b"N") >= 0
    return {"bases": bases, "has_n": has_n}


def _read_pixels(split: str, group: h5py.Group, raw: IO[bytes]) -> pd.DataFrame:
    """Return the sizes of some photos in pixels, as their headers give them."""
    sizes: list[tuple[str, int, int]] = []
    if IMAGE in group and IMAGE_LENGTH in group:
        rows = choose_photos(group, _PIXELS_PER_SPLIT, _SEED)
        lengths = group[IMAGE_LENGTH][:][rows].astype(np.int64)
        for jpeg in Column(group[IMAGE], raw).read_starts(rows, lengths):
            with suppress(OSError):  # a photo that is no picture: `verify` reports it
                sizes.append((split, *Image.open(BytesIO(jpeg.tobytes())).size))
    return pd.DataFrame(sizes, columns=["split", "width", "height"])


def _read_names(
    groups: Mapping[str, h5py.Group], tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[int, str]]:
    """Return the names of the taxa of the ranks that are few enough to be listed."""
    names: dict[str, dict[int, str]] = {}
    for rank in LISTED:
        names[rank] = {}
        for split, group in groups.items():
            if rank in group:
                first = tables[split][rank].drop_duplicates()
                new = first[(first != UNKNOWN) & ~first.isin(list(names[rank]))]
                names[rank] |= zip(new, text_at(group[rank], new.index.to_numpy()), strict=True)
    return names
