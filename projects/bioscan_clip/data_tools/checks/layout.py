"""Whether a file has the splits and columns it should have."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import h5py
import numpy as np

from projects.bioscan_clip.data_tools.checks.finding import Finding, Severity
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    DNA_FEATURES,
    IDENTIFIERS,
    IMAGE,
    IMAGE_FEATURES,
    IMAGE_LENGTH,
    RANKS,
    SPLITS_1M,
    SPLITS_5M,
    TEXT_IDS,
    TEXT_LENGTH,
    TEXT_MASK,
    TEXT_TYPE_IDS,
)

LAYOUTS: Final = {"BIOSCAN-1M": SPLITS_1M, "BIOSCAN-5M": SPLITS_5M}

_USED_BY_EXPERIMENTS = (
    "no_split_and_seen_train",
    "all_keys",
    "val_seen",
    "val_unseen",
    "test_seen",
    "test_unseen",
)
_BUILD_AGAIN = "build or download the file again"


class _Kind(NamedTuple):
    words: str
    fits: Callable[[h5py.Dataset], bool]


def _is_text(column: h5py.Dataset) -> bool:
    is_string = column.dtype.kind == "S" or h5py.check_string_dtype(column.dtype) is not None
    return bool(column.ndim == 1 and is_string)


def _is_photos(column: h5py.Dataset) -> bool:
    values = column.dtype if column.ndim == 2 else h5py.check_vlen_dtype(column.dtype)
    return bool(values == np.uint8 and column.ndim <= 2)


_TEXT = _Kind("bytes, shape (N,)", _is_text)
_PHOTOS = _Kind("uint8, shape (N, L), or (N,) of variable-length uint8", _is_photos)
_NUMBERS = _Kind("integers, shape (N,)", lambda c: c.dtype.kind in "iu" and c.ndim == 1)
_TOKENS = _Kind(
    f"integers, shape (N, {TEXT_LENGTH})",
    lambda c: c.dtype.kind in "iu" and c.shape[1:] == (TEXT_LENGTH,),
)
_FEATURES = _Kind("floats, shape (N, D)", lambda c: c.dtype.kind == "f" and c.ndim == 2)

_KINDS: Final[Mapping[str, _Kind]] = {
    **dict.fromkeys((*RANKS, BARCODE, *IDENTIFIERS, *BIN_COLUMNS), _TEXT),
    **dict.fromkeys((TEXT_IDS, TEXT_TYPE_IDS, TEXT_MASK), _TOKENS),
    **dict.fromkeys((IMAGE_FEATURES, DNA_FEATURES), _FEATURES),
    IMAGE: _PHOTOS,
    IMAGE_LENGTH: _NUMBERS,
}
_OPTIONAL = (*BIN_COLUMNS, IMAGE_FEATURES, DNA_FEATURES)
_READ_BY_NOTHING_HERE = ("processid", "image_file", TEXT_TYPE_IDS)
_PRECOMPUTED = {IMAGE: IMAGE_FEATURES, IMAGE_LENGTH: IMAGE_FEATURES, BARCODE: DNA_FEATURES}


def nearest_layout(splits: set[str]) -> str:
    """Return which published file has splits most like these: ``BIOSCAN-1M`` or ``BIOSCAN-5M``."""
    return min(LAYOUTS, key=lambda name: len(splits ^ set(LAYOUTS[name])))


def split_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the groups of a file, those of published files first and by what they are for."""
    groups = {name: file[name] for name in file if isinstance(file.get(name), h5py.Group)}
    known = [name for name in dict.fromkeys((*SPLITS_1M, *SPLITS_5M)) if name in groups]
    return {name: groups[name] for name in dict.fromkeys((*known, *groups))}


def check_splits(file: h5py.File) -> tuple[dict[str, h5py.Group], list[Finding]]:
    """Return the groups of a file that are splits, and what is wrong with their names."""
    groups = split_groups(file)
    if not groups:
        remedy = f"is this a BIOSCAN file? If so, {_BUILD_AGAIN}"
        return {}, [Finding("layout", "error", "the file holds no split", remedy)]
    layout = nearest_layout(set(groups))
    findings = []
    for name in sorted(set(file) - set(LAYOUTS[layout])):
        kind = "split" if name in groups else "entry"
        message = f"{layout} has no {kind} of the name {name}"
        remedy = "no experiment reads it; mend the name if it is misspelt"
        findings.append(
            Finding("layout", "warning", message, remedy, name if name in groups else None)
        )
    missing = [name for name in LAYOUTS[layout] if name not in groups]
    if missing:
        message = f"the splits resemble those of {layout}, but {', '.join(missing)} is not there"
        remedy = "build the file again if an experiment needs what is missing"
        findings.append(Finding("layout", "warning", message, remedy))
    return groups, findings


def check_columns(
    split: str, group: h5py.Group
) -> tuple[dict[str, h5py.Dataset], int, list[Finding]]:
    """Check the columns of a split.

    Parameters
    ----------
    split : str
        Its name.
    group : h5py.Group
        The split.

    Returns
    -------
    usable : dict of str to h5py.Dataset
        Columns that are as they should be, for further checks; none if they differ in length.
    rows : int
        Number of rows.
    findings : list of Finding
        What is wrong.
    """
    findings = [
        Finding("layout", _gravity(name, group), f"it lacks the column {name}", _BUILD_AGAIN, split)
        for name in _KINDS
        if name not in group and name not in _OPTIONAL
    ]
    usable = {}
    for name, kind in _KINDS.items():
        column = group.get(name)
        if isinstance(column, h5py.Dataset) and kind.fits(column):
            usable[name] = column
        elif name in group:
            shown = (
                f"{column.dtype}, shape {column.shape}"
                if isinstance(column, h5py.Dataset)
                else "no dataset"
            )
            message = f"the column {name} should be {kind.words}, but is {shown}"
            findings.append(Finding("layout", "error", message, _BUILD_AGAIN, split))

    lengths = {name: len(column) for name, column in usable.items()}
    rows = max(lengths.values(), default=0)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        message = f"the columns differ in their number of rows ({listed})"
        remedy = f"the file is damaged or half written: {_BUILD_AGAIN}"
        return {}, rows, [*findings, Finding("layout", "error", message, remedy, split)]
    if lengths and rows == 0:
        used = split in _USED_BY_EXPERIMENTS
        severity: Severity = "error" if used else "warning"
        remedy = _BUILD_AGAIN if used else "no experiment reads this split; leave it if you do not"
        findings.append(Finding("layout", severity, "it holds no specimens", remedy, split))
    return usable, rows, findings


def _gravity(column: str, group: h5py.Group) -> Severity:
    """Return how bad it is that a column is missing."""
    replaced = _PRECOMPUTED.get(column) in group if column in _PRECOMPUTED else False
    return "warning" if replaced or column in _READ_BY_NOTHING_HERE else "error"
