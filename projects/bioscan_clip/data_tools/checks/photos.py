"""Whether photos can be decoded. Light to import, since processes are begun for it."""

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from projects.bioscan_clip.data_tools.checks.finding import HDF5_ERRORS, Finding, IntArray
from projects.bioscan_clip.data_tools.cores import available_cores
from projects.bioscan_clip.datasets.hdf5 import Column, open_file
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH, MAX_ASPECT, MAX_PIXELS

_PHOTOS_AT_ONCE = 128
_GET_AGAIN = "get these photos again, or set on_bad_image=skip to train without them"

_UNDECODABLE = Finding("photos", "error", "the photo does not decode", _GET_AGAIN)
_UNREADABLE = Finding(
    "photos", "error", "the column image cannot be read", "build or download the file again"
)
_NOT_ZERO = Finding(
    "photos",
    "warning",
    f"there are bytes other than zero behind the {IMAGE_LENGTH} bytes of the photo",
    f"check {IMAGE_LENGTH}: the photo may be cut off",
)


@dataclass(frozen=True)
class PhotoBlock:
    """Rows of a split to look at, int64, ascending."""

    split: str
    rows: IntArray


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


def photo_blocks(split: str, rows: IntArray) -> list[PhotoBlock]:
    """Divide rows of a split into portions for :func:`decode_photos`."""
    starts = range(0, len(rows), _PHOTOS_AT_ONCE)
    return [PhotoBlock(split, rows[start : start + _PHOTOS_AT_ONCE]) for start in starts]


def decode_photos(
    path: Path, blocks: list[PhotoBlock], processes: int | None
) -> Iterator[dict[Finding, IntArray]]:
    """Decode photos in parallel.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    blocks : list of PhotoBlock
        What to decode.
    processes : int, optional
        Number of processes; the number of available cores if None.

    Yields
    ------
    dict of Finding to numpy.ndarray
        For each block in turn, the rows with each finding.

    Raises
    ------
    OSError
        If a process is killed.
    """
    processes = processes or available_cores()
    decode = partial(decode_block, path)
    if processes == 1 or len(blocks) < 2:
        yield from map(decode, blocks)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(decode, blocks)
    except BrokenProcessPool as error:
        raise OSError(
            f"A process that decoded photos of {path} was killed, perhaps for want of memory. "
            "Try fewer --processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def decode_block(path: Path, block: PhotoBlock) -> dict[Finding, IntArray]:
    """Decode the photos of a block and return the rows with each finding."""
    found: dict[Finding, list[int]] = {_UNDECODABLE: [], _NOT_ZERO: [], _UNREADABLE: []}
    with open_file(path) as file, path.open("rb", buffering=0) as raw:
        try:
            group = file[block.split]
            lengths = Column(group[IMAGE_LENGTH], raw).read(block.rows).tolist()
            photos = Column(group[IMAGE], raw).read(block.rows)
        except HDF5_ERRORS:
            return {_UNREADABLE: block.rows}
    for row, photo, length in zip(block.rows.tolist(), photos, lengths, strict=True):
        if problem_of(photo[:length].tobytes()):
            found[_UNDECODABLE].append(row)
        if photo[length:].any():
            found[_NOT_ZERO].append(row)
    return {finding: np.array(rows, dtype=np.int64) for finding, rows in found.items()}


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
        with Image.open(BytesIO(photo), formats=formats) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS or max(picture.size) > MAX_ASPECT * min(picture.size):
                return f"has {width:,} x {height:,} pixels, which training does not read"
            if picture.mode.startswith("I") or (picture.format == "PNG" and photo[24] > 8):
                return "has 16 bits per value, of which training reads 8"
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"does not decode: {error}"
    return None
