"""Writing a BIOSCAN HDF5 file, so that a kill at any time costs no more than a block of rows.

The file is laid out first, with room for every row, and then filled block by block, while a journal
beside it notes the checksum of each block. Before the file gets its name, all of it is read again
and compared with these checksums: a stretch that was lost after a kill is written once more.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.hdf5 import PARTIAL_SUFFIX, own_member
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH
from projects.bioscan_clip.files import progress

_BLOCK_BYTES = 1 << 25

Columns = dict[str, npt.NDArray[Any]]
Layout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True)
class SplitSource:
    """What is to be written to one group of a file.

    Attributes
    ----------
    length : int
        Number of rows.
    columns : mapping of str to tuple
        For every column but `image` and `image_mask`: dtype, and shape of one row.
    read : callable
        Takes a run of rows, returns those columns, shape ``(rows, ...)`` each.
    photo_lengths : numpy.ndarray or None
        int64, shape ``(length,)``: bytes of each JPEG. None if the file has no photos.
    read_photos : callable or None
        Takes a run of rows, returns their JPEGs, uint8, without padding.
    run : int
        Blocks of rows begin at multiples of this number.
    """

    length: int
    columns: Layout
    read: Callable[[slice], Mapping[str, npt.NDArray[Any]]]
    photo_lengths: npt.NDArray[np.int64] | None = None
    read_photos: Callable[[slice], Sequence[npt.NDArray[np.uint8]]] | None = None
    run: int = 1


class _Block(NamedTuple):
    split: str
    start: int
    stop: int


def identity_of(path: Path) -> str:
    """Return a text that changes when a file does: its full path, size and time of last change."""
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def write_file(path: Path, splits: Mapping[str, SplitSource], *, identity: str) -> None:
    """Write a file, or resume writing it.

    It is written beside `path`, to a file whose name ends with ``.partial``, and takes its place
    when it is complete. After a kill or an error, a call with the same arguments resumes after the
    last block of rows and ends with the same values as an undisturbed one.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file. Photos are padded with zeros to the longest one of all splits.
    splits : mapping of str to SplitSource
        Contents of each group.
    identity : str
        What is written from what: paths, sizes and dates of sources, options.

    Raises
    ------
    ValueError
        If ``path.partial`` was begun with another `identity`, is damaged or is being written by
        another process, or a source does not return what it promises.
    OSError
        If the disk has too little room for the file, or does not keep what is written to it.
    """
    layouts = _layouts(splits)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    journal = partial.with_name(f"{partial.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(partial, sum(_row_bytes(layouts[s]) * splits[s].length for s in splits))
    if not (partial.exists() and journal.exists()):
        journal.unlink(missing_ok=True)
        _lay_out(partial, layouts, {split: source.length for split, source in splits.items()})
    with _opened(partial) as file:
        noted = read_journal(journal, f"{identity} {layouts}")
        _check_layout(file, layouts)
        checksums = {tuple(step[:-1]): step[-1] for step in noted if step}
        blocks = [block for split in splits for block in _blocks(split, splits[split], layouts)]
        rows = sum(block.stop - block.start for block in blocks)
        with progress("Writing rows", rows) as advance:
            for block in blocks:
                if block not in checksums or checksums[block] != _checksum_of(file, block):
                    columns = _read(splits[block.split], block, layouts[block.split])
                    for name, values in columns.items():
                        file[block.split][name][block.start : block.stop] = values
                    file.flush()
                    checksums[block] = _checksum(columns)
                    add_to_journal(journal, [*block, checksums[block]])
                advance(block.stop - block.start)
        os.fsync(file.id.get_vfd_handle())
        with progress("Checking rows", rows) as advance:
            for block in blocks:
                if checksums[block] != _checksum_of(file, block):
                    raise OSError(
                        f"{partial}, split {block.split}, rows {block.start} to {block.stop - 1}: "
                        "the disk did not keep what was written. Write to another disk."
                    )
                advance(block.stop - block.start)
    partial.replace(path)
    journal.unlink()


def read_journal(path: Path, identity: str) -> list[list[int | str]]:
    """Return the steps that a journal tells of; begin a journal where there is none.

    Parameters
    ----------
    path : pathlib.Path
        The journal: one line of JSON for each step. A last line that was cut off is dropped.
    identity : str
        What is done with what.

    Raises
    ------
    ValueError
        If it was begun with another `identity`, or is damaged.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        del lines[-1]
    steps = [_step(path, number, line) for number, line in enumerate(lines, start=1)]
    if steps and steps[0] != [identity]:
        raise ValueError(
            f"{path} was begun from other data or with other options. Repeat the command that "
            f"began it to complete it, or delete {path.name} to start over."
        )
    path.write_bytes(b"".join(lines))
    if not steps:
        add_to_journal(path, [identity])
    return steps[1:]


def add_to_journal(path: Path, step: Sequence[int | str]) -> None:
    """Note that a step is done."""
    with path.open("ab") as file:
        file.write(json.dumps(step).encode() + b"\n")


def _step(path: Path, number: int, line: bytes) -> list[int | str]:
    try:
        step = json.loads(line)
    except ValueError:
        step = None
    if not isinstance(step, list) or not all(isinstance(each, int | str) for each in step):
        raise ValueError(f"{path}, line {number} is damaged. Delete {path.name} to start over.")
    return step


def _layouts(splits: Mapping[str, SplitSource]) -> dict[str, Layout]:
    """Return dtype and shape of a row of every column of every split."""
    lengths = [s.photo_lengths for s in splits.values() if s.photo_lengths is not None]
    longest = max((int(each.max(initial=1)) for each in lengths), default=1)
    photos: Layout = {
        IMAGE: (np.dtype(np.uint8), (longest,)),
        IMAGE_LENGTH: (np.dtype(np.int64), ()),
    }
    return {
        split: {**source.columns, **(photos if source.photo_lengths is not None else {})}
        for split, source in splits.items()
    }


def _row_bytes(layout: Layout) -> int:
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.values())


def _check_room(partial: Path, size: int) -> None:
    there = partial.stat().st_blocks * 512 if partial.exists() else 0
    free = shutil.disk_usage(partial.parent).free
    if free < size - there:
        raise OSError(
            f"Writing {partial} takes {size - there:,} bytes more, but its disk has {free:,} free. "
            "Make room, or write to another disk."
        )


def _lay_out(path: Path, layouts: Mapping[str, Layout], lengths: Mapping[str, int]) -> None:
    """Make a file with room for every row, so that filling it changes none of HDF5's records.

    HDF5 keeps its records in memory until a file is closed, and a kill takes them along.
    """
    room = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w", locking="best-effort") as file:
        for split, layout in layouts.items():
            group = file.create_group(split)
            for name, (dtype, shape) in layout.items():
                group.create_dataset(name, (lengths[split], *shape), dtype, dcpl=room.copy())


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a file that was laid out, for this process alone."""
    try:
        file = h5py.File(path, "r+", locking="best-effort")
    except BlockingIOError as error:
        raise ValueError(f"{path} is being written by another process.") from error
    except OSError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it to start over.") from error
    try:
        with file:
            yield file
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"The disk filled while {path} was written. Make room, and run the same command again."
        ) from error


def _check_layout(file: h5py.File, layouts: Mapping[str, Layout]) -> None:
    try:
        for split, layout in layouts.items():
            for name, (_, shape) in layout.items():
                if own_member(own_member(file, split), name).shape[1:] != shape:
                    raise ValueError(f"{name} has another shape")
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file.filename} is damaged ({error}). Delete it to start over."
        ) from error


def _blocks(split: str, source: SplitSource, layouts: Mapping[str, Layout]) -> Iterator[_Block]:
    """Yield the rows of a split in blocks of about 32 MB."""
    rows = _BLOCK_BYTES // max(1, _row_bytes(layouts[split]))
    step = max(rows // source.run, 1) * source.run
    for start in range(0, source.length, step):
        yield _Block(split, start, min(start + step, source.length))


def _read(source: SplitSource, block: _Block, layout: Layout) -> Columns:
    """Return the columns of a block as the file is to hold them."""
    rows = slice(block.start, block.stop)
    columns = dict(source.read(rows))
    if source.photo_lengths is not None and source.read_photos is not None:
        columns[IMAGE_LENGTH] = source.photo_lengths[rows].astype(np.int64)
        columns[IMAGE] = np.zeros((len(columns[IMAGE_LENGTH]), *layout[IMAGE][1]), np.uint8)
        photos = zip(source.read_photos(rows), columns[IMAGE_LENGTH].tolist(), strict=True)
        for row, (photo, length) in enumerate(photos):
            if len(photo) != length:
                raise ValueError(
                    f"Split {block.split}, row {block.start + row}: the photo has {len(photo)} "
                    f"bytes, not {length}."
                )
            columns[IMAGE][row, :length] = photo
    return {
        name: columns[name].astype(dtype, casting="safe", copy=False)
        for name, (dtype, _) in layout.items()
    }


def _checksum_of(file: h5py.File, block: _Block) -> str:
    """Return the checksum of what a file holds of a block."""
    group = file[block.split]
    return _checksum({name: group[name][block.start : block.stop] for name in group})


def _checksum(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    checksum = blake2b(digest_size=16)
    for name in sorted(columns):
        checksum.update(np.ascontiguousarray(columns[name]).tobytes())
    return checksum.hexdigest()
