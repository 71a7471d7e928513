"""Whether photos can be decoded and their lengths are right."""

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

from projects.bioscan_clip.data_tools.checks.columns import IntArray
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem
from projects.bioscan_clip.data_tools.cores import available_cores
from projects.bioscan_clip.datasets.hdf5 import Column, open_file
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH

_PHOTOS_AT_ONCE = 128
_GET_AGAIN = "get these photos again, or set on_bad_image=skip to train without them"

_NO_PHOTO = Problem(
    "photos", "error", f"there is no photo ({IMAGE_LENGTH} is 0)", _GET_AGAIN
)  # fmt: skip
_BAD_LENGTH = Problem(
    "photos",
    "error",
    f"{IMAGE_LENGTH} is negative or more than a row of {IMAGE} holds",
    f"correct {IMAGE_LENGTH} or build the file again",
)
_OTHER_LENGTH = Problem(
    "photos",
    "error",
    f"{IMAGE_LENGTH} is not the length of the array in {IMAGE}",
    f"correct {IMAGE_LENGTH} or build the file again",
)
_UNDECODABLE = Problem("photos", "error", "the photo does not decode", _GET_AGAIN)
_NOT_ZERO = Problem(
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


def check_lengths(split: str, columns: dict[str, h5py.Dataset]) -> list[Finding]:
    """Check the column `image_mask` of a split."""
    lengths = columns[IMAGE_LENGTH][:]
    wrong = {
        _NO_PHOTO: lengths == 0,
        _BAD_LENGTH: (lengths < 0) | (lengths > _longest(columns[IMAGE])),
    }
    return [
        finding
        for problem, rows in wrong.items()
        for finding in problem.at(split, np.flatnonzero(rows))
    ]


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
    rows = np.flatnonzero((lengths > 0) & (lengths <= _longest(columns[IMAGE])))
    if number is None or number >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))


def photo_blocks(split: str, rows: IntArray) -> list[PhotoBlock]:
    """Divide rows of a split into portions for :func:`decode_photos`."""
    starts = range(0, len(rows), _PHOTOS_AT_ONCE)
    return [PhotoBlock(split, rows[start : start + _PHOTOS_AT_ONCE]) for start in starts]


def _longest(images: h5py.Dataset) -> int:
    return int(images.shape[1]) if images.ndim == 2 else int(np.iinfo(np.int64).max)


def decode_photos(
    path: Path, blocks: list[PhotoBlock], processes: int | None
) -> Iterator[dict[Problem, IntArray]]:
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
    dict of Problem to numpy.ndarray
        For each block in turn, the rows with each problem.

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


def decode_block(path: Path, block: PhotoBlock) -> dict[Problem, IntArray]:
    """Decode the photos of a block and return the rows with each problem."""
    with open_file(path) as file, path.open("rb", buffering=0) as raw:
        group = file[block.split]
        lengths = Column(group[IMAGE_LENGTH], raw).read(block.rows).tolist()
        photos = list(Column(group[IMAGE], raw).read(block.rows))
        padded = group[IMAGE].ndim == 2
    pairs = list(zip(photos, lengths, strict=True))
    found = {
        _UNDECODABLE: [problem_of(photo[:length].tobytes()) is not None for photo, length in pairs]
    }
    if padded:
        found[_NOT_ZERO] = [bool(photo[length:].any()) for photo, length in pairs]
    else:
        found[_OTHER_LENGTH] = [len(photo) != length for photo, length in pairs]
    return {problem: block.rows[wrong] for problem, wrong in found.items()}


def check_picture(path: Path) -> int | str:
    """Return the length in bytes of a JPEG file that decodes, or why it is of no use."""
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
        Image.open(BytesIO(photo), formats=formats).load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"does not decode: {error}"
    return None
