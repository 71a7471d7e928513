"""What a BIOSCAN HDF5 file holds, in numbers and in tables that sum them up."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.data_tools.checks.columns import check_columns, split_groups
from projects.bioscan_clip.data_tools.checks.finding import blocks, text_at
from projects.bioscan_clip.data_tools.checks.photos import choose_photos
from projects.bioscan_clip.datasets.hdf5 import (
    Column,
    PhotoStorage,
    damage_named,
    open_file,
    photo_storage,
)
from projects.bioscan_clip.datasets.photos import open_photo
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    EVALUATION_SPLITS,
    IDENTIFIERS,
    IMAGE,
    IMAGE_LENGTH,
    RANKS,
    SEEN_KEYS,
    TRAINING_SPLIT,
)
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

BIN: Final = "BIN"
TAXA: Final = (*RANKS, BIN)
LISTED: Final = RANKS[:2]
"""Ranks with few enough taxa to show them by name."""

WHOLE_FILE: Final = "whole file"
"""Name of the row that counts each specimen once, though it may be in several splits."""

SPECIES: Final = RANKS[-1]
Status = Literal["seen", "unseen", "pretraining only", "other"]
Table = Mapping[str, h5py.Dataset]

_PIXELS_PER_SPLIT = 500
_SEED = 0
_ID = IDENTIFIERS[0]
_PRETRAINING = ("no_split", "single_species", TRAINING_SPLIT)
_SEEN = ("train_seen", SEEN_KEYS, *(splits["seen"] for splits in EVALUATION_SPLITS.values()))


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
        One row per row of the file, then one per specimen, of the split ``whole file``: `split`;
        codes of `sampleid`, of each rank and of the BIN, missing if unknown; `bases` (length of the
        barcode) and `has_n`; `jpeg_bytes`. Columns that the file lacks are missing here as well.
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
        About 100 bytes per row of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, is incomplete or is being written, or has no split.
    """
    path = path.expanduser()
    with damage_named(path), open_file(path) as file, path.open("rb", buffering=0) as raw:
        groups = {name: check_columns(name, each)[0] for name, each in _groups(file).items()}
        if not groups:
            raise ValueError(f"{path} holds no split, so that it is no BIOSCAN file.")
        tables = {name: _read_specimens(name, columns) for name, columns in groups.items()}
        photos = {name: columns[IMAGE] for name, columns in groups.items() if IMAGE in columns}
        return Description(
            path=path,
            size=path.stat().st_size,
            specimens=_joined(tables),
            pixels=pd.concat([_read_pixels(name, each, raw) for name, each in groups.items()]),
            names=_read_names(groups, tables),
            storage={name: photo_storage(images) for name, images in photos.items()},
            splits=list(groups),
        )


def _groups(file: h5py.File) -> dict[str, h5py.Group]:
    known = {*RANKS, _ID, BARCODE}
    return {name: group for name, group in split_groups(file).items() if known & set(group)}


def _read_specimens(split: str, columns: Table) -> pd.DataFrame:
    table: dict[str, Any] = {"split": split}
    for column in (_ID, *RANKS, *BIN_COLUMNS):
        if column in columns:
            codes = encode_column(columns[column])
            name = BIN if column in BIN_COLUMNS else column
            table[name] = pd.arrays.IntegerArray(codes, codes == UNKNOWN)
    if BARCODE in columns:
        table |= _read_barcodes(columns[BARCODE])
    if IMAGE_LENGTH in columns:
        table["jpeg_bytes"] = columns[IMAGE_LENGTH][:].astype(np.int32)
    return pd.DataFrame(table)


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put the tables of all splits below each other, and below them each specimen once."""
    splits = pd.CategoricalDtype([*tables, WHOLE_FILE])
    tables_of_a_kind = [each.astype({"split": splits}) for each in tables.values()]
    table = pd.concat(tables_of_a_kind, ignore_index=True)
    once = table[table[_ID].isna() | ~table.duplicated(_ID)] if _ID in table else table
    once = once.assign(split=pd.Series(WHOLE_FILE, index=once.index, dtype=splits))
    return pd.concat([table, once], ignore_index=True)


def _read_barcodes(column: h5py.Dataset) -> dict[str, npt.NDArray[Any]]:
    bases = np.empty(len(column), dtype=np.int32)
    has_n = np.empty(len(column), dtype=np.bool_)
    for start, block in blocks({BARCODE: column}):
        barcodes = block[BARCODE]
        rows = slice(start, start + len(barcodes))
        bases[rows] = np.char.str_len(barcodes)
        has_n[rows] = np.char.find(barcodes, b"N") >= 0
    return {"bases": bases, "has_n": has_n}


def _read_pixels(split: str, group: Table, raw: IO[bytes]) -> pd.DataFrame:
    """Return the sizes of some photos in pixels, as their headers give them."""
    sizes: list[tuple[str, int, int]] = []
    if IMAGE in group and IMAGE_LENGTH in group:
        rows = choose_photos(group, _PIXELS_PER_SPLIT, _SEED)
        lengths = group[IMAGE_LENGTH][:][rows].astype(np.int64)
        for jpeg in Column(group[IMAGE], raw).read_starts(rows, lengths):
            with suppress(OSError, SyntaxError, ValueError):  # no photo: `verify` reports it
                sizes.append((split, *open_photo(jpeg.data).size))
    return pd.DataFrame(sizes, columns=["split", "width", "height"])


def _read_names(
    groups: Mapping[str, Table], tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[int, str]]:
    """Return the names of the taxa of the ranks that are few enough to be listed."""
    names: dict[str, dict[int, str]] = {}
    for rank in LISTED:
        names[rank] = {}
        for split, group in groups.items():
            if rank in group:
                first = tables[split][rank].dropna().drop_duplicates()
                new = first[~first.isin(list(names[rank]))]
                names[rank] |= zip(new, text_at(group[rank], new.index.to_numpy()), strict=True)
    return names


def role_of(split: str) -> str:
    """Return what a split is for, in words."""
    if split in (*_PRETRAINING, "train_seen"):
        return "training"
    if split.endswith("_keys"):
        return "keys"
    for splits in EVALUATION_SPLITS.values():
        if split in (splits["seen"], splits["unseen"]):
            return "seen queries" if split == splits["seen"] else "unseen queries"
    return "other"


def distinct_specimens(description: Description) -> pd.DataFrame:
    """Return one row for each specimen, whatever the number of splits it is in."""
    return description.specimens[description.specimens["split"] == WHOLE_FILE]


def species_table(description: Description) -> pd.DataFrame:
    """Return the species with most specimens first.

    Returns
    -------
    pandas.DataFrame
        Index: codes. `specimens`, each counted once; `status`: ``unseen`` if a split of unseen
        species has it, else ``seen`` if one of seen species has, else ``pretraining only`` or
        ``other``.
    """
    table = description.specimens
    if SPECIES not in table:
        return pd.DataFrame({"specimens": [], "status": []})
    specimens = distinct_specimens(description)[SPECIES].value_counts()
    groups: dict[Status, list[str]] = {
        "unseen": [split for split in description.splits if "unseen" in split],
        "seen": list(_SEEN),
        "pretraining only": list(_PRETRAINING),
    }
    members = [
        specimens.index.isin(table[SPECIES][table["split"].isin(splits)])
        for splits in groups.values()
    ]
    status = np.select(members, list(groups), default="other")
    return pd.DataFrame({"specimens": specimens, "status": status})


def taxon_counts(description: Description) -> pd.DataFrame:
    """Return how many specimens and taxa there are.

    Returns
    -------
    pandas.DataFrame
        Index: splits and ``whole file``. `specimens`, the number of taxa of each rank and of BINs,
        and how many of the species are `seen` and `unseen`.
    """
    table = description.specimens
    grouped = table.groupby("split", observed=False)
    counts = {"specimens": grouped.size()}
    counts |= {taxon: grouped[taxon].nunique() for taxon in TAXA if taxon in table}
    if SPECIES in table:
        pairs = table[["split", SPECIES]].dropna().drop_duplicates()
        status = pairs[SPECIES].map(species_table(description)["status"])
        for kind in ("seen", "unseen"):
            counts[kind] = pairs[status == kind].groupby("split", observed=False).size()
    return pd.DataFrame(counts)


def missing_labels(description: Description) -> pd.DataFrame:
    """Return the share of specimens whose label is unknown.

    Returns
    -------
    pandas.DataFrame
        Index: splits and ``whole file``; columns: ranks and BIN; values from 0 to 1, NaN for a
        split without rows.
    """
    table = description.specimens
    unknown = table[[taxon for taxon in TAXA if taxon in table]].isna()
    return unknown.groupby(table["split"], observed=False).mean()


def barcode_lengths(description: Description) -> pd.DataFrame:
    """Return `min`, `median` and `max` of the bases of barcodes, and the share that has an N."""
    if "bases" not in description.specimens:
        return pd.DataFrame()
    grouped = description.specimens.groupby("split", observed=False)
    return grouped["bases"].agg(["min", "median", "max"]).assign(with_n=grouped["has_n"].mean())


def photo_sizes(description: Description) -> pd.DataFrame:
    """Return `min`, `median` and `max` of the bytes of JPEGs, and `pixels` as text."""
    if "jpeg_bytes" not in description.specimens:
        return pd.DataFrame()
    sizes = description.specimens.groupby("split", observed=False)["jpeg_bytes"].agg(
        ["min", "median", "max"]
    )
    pixels = description.pixels
    texts = {split: _pixels(pixels[pixels["split"] == split]) for split in description.splits}
    return sizes.assign(pixels=pd.Series(texts | {WHOLE_FILE: _pixels(pixels)}))


def most_frequent(description: Description, rank: str, number: int) -> pd.Series:
    """Return how many specimens the most frequent taxa of a rank have, by name."""
    if rank not in description.specimens:
        return pd.Series(dtype=np.int64)
    counts = distinct_specimens(description)[rank].value_counts()
    return counts.head(number).rename(description.names[rank])


def _pixels(sizes: pd.DataFrame) -> str:
    """Return the size of photos, or the range of widths and heights."""
    if sizes.empty:
        return ""
    return " x ".join(
        f"{each.min()}" if each.min() == each.max() else f"{each.min()}-{each.max()}"
        for each in (sizes["width"], sizes["height"])
    )
