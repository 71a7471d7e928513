"""Whether photos can be decoded. Light to import, since processes are begun for it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from projects.bioscan_clip.data_tools.checks.finding import HDF5_ERRORS, Finding, IntArray
from projects.bioscan_clip.data_tools.processes import processes_for
from projects.bioscan_clip.datasets.hdf5 import Column, open_file
from projects.bioscan_clip.datasets.photos import open_photo
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH
from projects.bioscan_clip.files import progress

_PHOTOS_AT_ONCE = 128
_PNG, _PNG_DEPTH = b"\x89PNG", 24  # how such a file begins, and where it says its bits per value
_GET_AGAIN = "get these photos again, or set on_bad_image=skip to train without them"

_UNDECODABLE = Finding("photos", "error", "the photo does not decode", _GET_AGAIN)
_UNREADABLE = Finding(
    "photos", "error", "the column image cannot be read", "build or download the file again"
)
_DEEP = Finding(
    "photos", "warning", "the photo has 16 bits per value, which training scales to 8",
    "save these photos with 8 bits, which also take less room",
)  # fmt: skip
_NOT_ZERO = Finding(
    "photos",
    "warning",
    f"there are bytes other than zero behind the {IMAGE_LENGTH} bytes of the photo",
    f"check {IMAGE_LENGTH}: the photo may be cut off",
)


def choose_photos(columns: Mapping[str, h5py.Dataset], number: int | None, seed: int) -> IntArray:
    """Choose photos whose length can be right, at random.

    Parameters
    ----------
    columns : mapping of str to h5py.Dataset
        Columns of a split.
    number : int or None
        How many at most; None for all.
    seed : int
        The same seed gives the same rows.

    Returns
    -------
    numpy.ndarray
        Rows, int64, ascending.
    """
    lengths = columns[IMAGE_LENGTH][:]
    rows = np.flatnonzero((lengths > 0) & (lengths <= columns[IMAGE].shape[1]))
    if number is None or number >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))


def check_photos(
    path: Path, chosen: Mapping[str, IntArray], processes: int | None
) -> Iterator[Finding]:
    """Decode photos in parallel.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    chosen : mapping of str to numpy.ndarray
        Rows of each split to decode, int64, ascending.
    processes : int, optional
        Number of processes; the number of available cores if None.

    Raises
    ------
    OSError
        If a process is killed.
    """
    blocks = [
        (split, rows[start : start + _PHOTOS_AT_ONCE])
        for split, rows in chosen.items()
        for start in range(0, len(rows), _PHOTOS_AT_ONCE)
    ]
    found: defaultdict[tuple[str, Finding], list[int]] = defaultdict(list)
    decode = partial(decode_block, path)
    with (
        processes_for("decoded photos", processes) as pool,
        progress("Decoding photos", len(blocks)) as advance,
    ):
        results = (map if processes == 1 else pool.map)(decode, blocks)
        for (split, _), rows_with in zip(blocks, results, strict=True):
            for finding, rows in rows_with.items():
                found[split, finding] += rows
            advance()
    for (split, finding), rows in found.items():
        yield from finding.at(split, np.array(rows, dtype=np.int64))


def decode_block(path: Path, block: tuple[str, IntArray]) -> dict[Finding, list[int]]:
    """Decode the photos in some rows of a split and return the rows with each finding."""
    split, rows = block
    found: defaultdict[Finding, list[int]] = defaultdict(list)
    with open_file(path) as file, path.open("rb", buffering=0) as raw:
        try:
            lengths = Column(file[split][IMAGE_LENGTH], raw).read(rows).tolist()
            photos = Column(file[split][IMAGE], raw).read(rows)
        except HDF5_ERRORS:
            return {_UNREADABLE: rows.tolist()}
    for row, photo, length in zip(rows.tolist(), photos, lengths, strict=True):
        content = photo[:length].tobytes()
        if problem_of(content):
            found[_UNDECODABLE].append(row)
        elif content.startswith(_PNG) and content[_PNG_DEPTH] > 8:
            found[_DEEP].append(row)
        if photo[length:].any():
            found[_NOT_ZERO].append(row)
    return dict(found)


def check_picture(path: Path) -> int | str:
    """Return the length in bytes of a JPEG file that is of use, or why it is of none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    return problem_of(content, formats=("JPEG",)) or len(content)


def problem_of(photo: bytes, formats: tuple[str, ...] = ("JPEG", "PNG")) -> str | None:
    """Return why the bytes are not a whole picture that training reads; None if they are."""
    try:
        open_photo(photo, formats).load()
    except (OSError, SyntaxError, ValueError) as error:
        return f"does not decode: {error}"
    return None
