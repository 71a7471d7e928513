"""Whether a file has the splits and columns it should have, and values that make sense."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.checks.finding import (
    HDF5_ERRORS,
    Block,
    BoolArray,
    Finding,
    IntArray,
    Severity,
    rows_with,
    text_at,
)
from projects.bioscan_clip.datasets.hdf5 import own_member
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    DNA_FEATURES,
    EVALUATION_SPLITS,
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
    TRAINING_SPLIT,
)

LAYOUTS: Final = {"BIOSCAN-1M": SPLITS_1M, "BIOSCAN-5M": SPLITS_5M}
BARCODE_ALPHABET: Final = b"ACGTNRYSWKMBDHV-"
"""Bases, any base (N), the other IUPAC codes, and the gap of an alignment."""

# Of published files, by their names: about how many bytes they have, and rows that are known.
_PUBLISHED: Final[Mapping[str, tuple[float, Mapping[str, int]]]] = {
    "BioScan_data_in_splits.hdf5": (79.7e9, {"all_keys": 21_118}),
    "BIOSCAN_5M.hdf5": (
        190.4e9,
        {
            "seen_keys": 289_203,
            "unseen_keys": 36_465,
            "val_seen": 14_757,
            "test_seen": 39_373,
            "val_unseen": 8_819,
            "test_unseen": 7_887,
            "other_heldout": 76_590,
        },
    ),
}
Letters = npt.NDArray[np.uint8]

_BUILD_AGAIN = "build or download the file again"


class _Kind(NamedTuple):
    words: str
    fits: Callable[[h5py.Dataset], bool]


def _is_text(column: h5py.Dataset) -> bool:
    is_string = column.dtype.kind == "S" or h5py.check_string_dtype(column.dtype) is not None
    return bool(column.ndim == 1 and is_string)


_TEXT = _Kind("bytes, shape (N,)", _is_text)
_PHOTOS = _Kind("uint8, shape (N, L)", lambda c: c.dtype == np.uint8 and c.ndim == 2)
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
    """Return the groups of a file, those of published files first and by what they are for.

    Those that cannot be opened, or lie in another file, are left out.
    """
    groups = {}
    for name in file:
        with suppress(ValueError):
            member = own_member(file, name)
            if isinstance(member, h5py.Group):
                groups[name] = member
    known = [name for name in dict.fromkeys((*SPLITS_1M, *SPLITS_5M)) if name in groups]
    return {name: groups[name] for name in dict.fromkeys((*known, *groups))}


def check_splits(file: h5py.File) -> tuple[dict[str, h5py.Group], list[Finding]]:
    """Return the groups of a file that are splits, and what is wrong with their names."""
    try:
        groups, names = split_groups(file), set(file)
    except HDF5_ERRORS as error:
        return {}, [_error(f"the list of splits cannot be read ({error})")]
    if not groups:
        remedy = f"is this a BIOSCAN file? If so, {_BUILD_AGAIN}"
        return {}, [Finding("layout", "error", "the file holds no split", remedy)]
    layout = nearest_layout(set(groups))
    findings = []
    for name in sorted(names - set(groups)):
        try:
            own_member(file, name)
        except ValueError as error:
            findings.append(_error(str(error).rstrip(".")))
    for name in sorted(names - set(LAYOUTS[layout])):
        kind = "split" if name in groups else "entry"
        message = f"{layout} has no {kind} of the name {name}"
        remedy = "no experiment reads it; correct the name if it is misspelt"
        place = name if name in groups else None
        findings.append(Finding("layout", "warning", message, remedy, place))
    missing = [name for name in LAYOUTS[layout] if name not in groups]
    if missing:
        message = f"the splits resemble those of {layout}, but {', '.join(missing)} is not there"
        remedy = "build the file again if an experiment needs what is missing"
        findings.append(Finding("layout", "warning", message, remedy))
    roles = [role for stage in EVALUATION_SPLITS.values() for role in stage.items()]
    for what, wanted in (
        ("keys", {split for role, split in roles if role == "keys"}),
        ("queries", {split for role, split in roles if role != "keys"}),
    ):
        if not wanted & set(groups):
            listed = " or ".join(sorted(wanted))
            findings.append(_error(f"there are no {what} ({listed}), so nothing can be scored"))
    return groups, findings


def check_published(name: str, size: int, rows: Mapping[str, int]) -> Iterator[Finding]:
    """Compare a file of a published name with what is known of the published one."""
    published_size, published_rows = _PUBLISHED.get(name, (size, {}))
    differences = [
        f"{rows.get(split, 0):,} of {number:,} specimens in {split}"
        for split, number in published_rows.items()
        if rows.get(split, 0) != number
    ]
    if abs(size - published_size) > 0.01 * published_size:
        differences.append(f"{size / 1e9:.1f} of about {published_size / 1e9:.1f} GB")
    if differences:
        message = f"it is not the published {name}, but has {', '.join(differences)}"
        yield _error(message, "warning")


def check_columns(
    split: str, group: h5py.Group
) -> tuple[dict[str, h5py.Dataset], int, list[Finding]]:
    """Check which columns a split has, and of which kinds.

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
    try:
        there = set(group)
    except HDF5_ERRORS as error:
        return {}, 0, [_error(f"the list of its columns cannot be read ({error})", split=split)]
    usable, findings = {}, []
    for name, kind in _KINDS.items():
        if name not in there:
            if name not in _OPTIONAL:
                severity = _gravity(name, there)
                findings.append(_error(f"it lacks the column {name}", severity, split))
            continue
        try:
            column = _open_column(group, name, kind)
        except HDF5_ERRORS as error:
            message = f"the column {name}: {error}".rstrip(".")
            findings.append(_error(message, split=split))
        else:
            usable[name] = column
    lengths = {name: len(column) for name, column in usable.items()}
    rows = max(lengths.values(), default=0)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        message = f"the columns differ in their number of rows ({listed})"
        return {}, rows, [*findings, _error(message, split=split)]
    if lengths and rows == 0:
        used = {TRAINING_SPLIT, *(s for each in EVALUATION_SPLITS.values() for s in each.values())}
        severity = "error" if split in used else "warning"
        findings.append(_error("it holds no specimens", severity, split))
    return usable, rows, findings


def _open_column(group: h5py.Group, name: str, kind: _Kind) -> h5py.Dataset:
    """Return a column; raise one of ``HDF5_ERRORS`` that says what is wrong with it."""
    column = own_member(group, name)
    is_dataset = isinstance(column, h5py.Dataset)
    if is_dataset and column.shape is not None and kind.fits(column):
        return column
    shown = f"{column.dtype}, shape {column.shape}" if is_dataset else "no dataset"
    raise ValueError(f"it should be {kind.words}, but is {shown}")


def _gravity(column: str, there: set[str]) -> Severity:
    """Return how bad it is that a column is missing."""
    replaced = _PRECOMPUTED.get(column) in there
    return "warning" if replaced or column in _READ_BY_NOTHING_HERE else "error"


def _error(message: str, severity: Severity = "error", split: str | None = None) -> Finding:
    return Finding("layout", severity, message, _BUILD_AGAIN, split)


# From here on: values. Each function takes a block of rows and returns which have what.

_NO_PHOTO = Finding(
    "photos", "error", f"there is no photo ({IMAGE_LENGTH} is 0)",
    "get these photos again, or set on_bad_image=skip to train without them",
)  # fmt: skip
_BAD_LENGTH = Finding(
    "photos", "error", f"{IMAGE_LENGTH} is negative or more than a row of {IMAGE} holds",
    f"correct {IMAGE_LENGTH} or build the file again",
)  # fmt: skip
_NO_BARCODE = Finding(
    "barcodes", "error", "the barcode is empty", "drop these specimens or find their barcodes"
)
_FOREIGN = Finding(
    "barcodes", "error",
    "the barcode holds characters that are neither bases nor IUPAC codes nor gaps",
    "look at these barcodes in the metadata; drop or correct them",
)  # fmt: skip
_LOWER_CASE = Finding(
    "barcodes", "warning", "the barcode has lower-case bases, which the tokenizer reads as unknown",
    "write barcodes in capitals",
)  # fmt: skip
_SHORT = 200
_TOO_SHORT = Finding(
    "barcodes", "warning", f"the barcode has fewer than {_SHORT} bases, where 658 are usual",
    "consider to drop these specimens: so few bases say little about the species",
)  # fmt: skip
_PADDING, _START, _END, _VOCABULARY = 0, 101, 102, 30_522  # of every BERT
_TOKENIZE_AGAIN: Final = "tokenize the names again, as the file's builder does"
_BAD_MASK = Finding(
    "tokens", "error", "the attention mask is not 1 where there is a token and 0 where there is "
    "padding", _TOKENIZE_AGAIN,
)  # fmt: skip
_NO_START = Finding("tokens", "error", "the tokens do not begin with [CLS] (101)", _TOKENIZE_AGAIN)
_NO_END = Finding("tokens", "error", "the tokens have no [SEP] (102)", _TOKENIZE_AGAIN)
_BEYOND = Finding(
    "tokens", "error", f"a token is not in BERT's vocabulary (0 to {_VOCABULARY - 1:,})",
    _TOKENIZE_AGAIN,
)  # fmt: skip
_UNKNOWN, _PLAIN, _LOWER = 0, 1, 2
_CLASSES = np.zeros(256, dtype=np.uint8)
_CLASSES[list(BARCODE_ALPHABET)] = _PLAIN
_CLASSES[list(BARCODE_ALPHABET[:-1].lower())] = _LOWER


def check_values(split: str, columns: dict[str, h5py.Dataset]) -> Iterator[Finding]:
    """Read all rows of a split but their photos, and check what each holds by itself.

    Parameters
    ----------
    split : str
        Its name.
    columns : dict of str to h5py.Dataset
        Its columns. Those that cannot be read are removed.
    """
    for name in [name for name in columns if name != IMAGE]:
        read = {name: columns[name]}
        if name == TEXT_MASK and TEXT_IDS in columns:
            read[TEXT_IDS] = columns[TEXT_IDS]
        try:
            found = rows_with(read, partial(_inspect, name, columns))
            for finding, rows in found.items():
                names = text_at(columns[name], rows[:50]) if finding.subject == "labels" else []
                yield from finding.at(split, rows, list(dict.fromkeys(names)))
        except HDF5_ERRORS as error:
            del columns[name]
            yield _error(f"the column {name} cannot be read ({error})", split=split)


def _inspect(
    name: str, columns: Mapping[str, h5py.Dataset], block: Block
) -> dict[Finding, BoolArray]:
    values = block[name]
    if name in RANKS:
        return _inspect_names(name, _letters(values))
    if name == BARCODE:
        return _inspect_barcodes(_letters(values), np.char.str_len(values))
    if name == IMAGE_LENGTH and IMAGE in columns:
        beyond = (values < 0) | (values > columns[IMAGE].shape[1])
        return {_NO_PHOTO: values == 0, _BAD_LENGTH: beyond}
    if name == TEXT_IDS:
        return {
            _NO_START: values[:, 0] != _START,
            _NO_END: ~(values == _END).any(axis=1),
            _BEYOND: ((values < 0) | (values >= _VOCABULARY)).any(axis=1),
        }
    if name == TEXT_MASK and TEXT_IDS in block:
        return {_BAD_MASK: (values != (block[TEXT_IDS] != _PADDING)).any(axis=1)}
    if name in (IMAGE_FEATURES, DNA_FEATURES):
        message = f"{name} holds values that are no finite numbers"
        finding = Finding("layout", "error", message, "compute these features again")
        return {finding: ~np.isfinite(values).all(axis=1)}
    return {}


def _letters(texts: npt.NDArray[Any]) -> Letters:
    """Return the bytes of texts, uint8, shape ``(N, width)``, padded with zeros."""
    width = max(texts.dtype.itemsize, 1)
    return texts.astype(f"S{width}").view(np.uint8).reshape(len(texts), width)


def _inspect_barcodes(letters: Letters, lengths: IntArray) -> dict[Finding, BoolArray]:
    classes = _CLASSES[letters]
    classes[np.arange(letters.shape[1]) >= lengths[:, None]] = _PLAIN  # the padding
    return {
        _NO_BARCODE: lengths == 0,
        _FOREIGN: (classes == _UNKNOWN).any(axis=1),
        _LOWER_CASE: (classes == _LOWER).any(axis=1),
        _TOO_SHORT: (lengths > 0) & (lengths < _SHORT),
    }


def _inspect_names(rank: str, letters: Letters) -> dict[Finding, BoolArray]:
    foreign: BoolArray = (letters > 127).any(axis=1)
    control = (((letters > 0) & (letters < 32)) | (letters == 127)).any(axis=1)
    broken = np.zeros_like(foreign)
    broken[foreign] = [not _is_utf8(name.tobytes()) for name in letters[foreign]]
    return {
        Finding(
            "labels", "warning", f"the {rank} name is not valid UTF-8",
            "find out how the metadata were encoded, and write the names in UTF-8",
        ): broken,
        Finding(
            "labels", "warning", f"the {rank} name has control characters",
            "delete them from the names: terminals may take them for commands",
        ): control,
        Finding(
            "labels", "warning", f"the {rank} name has characters outside ASCII",
            "check that they are meant: scientific names are written with the letters a to z",
        ): foreign & ~broken,
    }  # fmt: skip


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
