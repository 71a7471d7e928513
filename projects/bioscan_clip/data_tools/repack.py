"""Copying rows of a file to another one, where reading one photo costs one photo."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.writing import SplitSource, identity_of, write_file
from projects.bioscan_clip.datasets.hdf5 import (
    Column,
    IntArray,
    check_lengths,
    damage_named,
    open_file,
    own_member,
    photo_storage,
)
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH

_ROWS_AT_ONCE = 1 << 16
_MOST_BYTES_OF_CHUNKS = 1 << 28


def repack(path: Path, out: Path) -> None:
    """Write the groups and columns of a file to another one, each photo in one run of bytes.

    Attributes are not kept; the files of this project have none.

    Parameters
    ----------
    path, out : pathlib.Path
        The HDF5 files to read and to write; see :func:`copy_rows`.
    """
    copy_rows(path, out, "repack")


def copy_rows(
    path: Path, out: Path, options: str, rows: Mapping[str, IntArray] | None = None
) -> None:
    """Write rows of a file to another one, or resume that.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file to read.
    out : pathlib.Path
        The HDF5 file to write. Texts of variable length become ones of fixed length.
    options : str
        How `rows` were chosen, so that only the same copy is resumed.
    rows : mapping of str to numpy.ndarray, optional
        For each group, the rows to take, ascending int64, shape ``(n,)``. All rows by default.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or holds what such a file cannot, or `out` was begun from another.
    OSError
        If `out` cannot be written.
    """
    with damage_named(path), open_file(path) as file, path.open("rb", buffering=0) as raw:
        sources = {
            split: _source(own_split(file, split), raw, None if rows is None else rows[split])
            for split in file
        }
        write_file(out, sources, identity=f"{options} {identity_of(path)}")


def photo_cost(path: Path) -> int | None:
    """Return how many bytes of a file are read for one photo; None if it holds none."""
    with open_file(path) as file:
        photos = [group[IMAGE] for group in file.values() if IMAGE in group]
        return photo_storage(photos[0]).touched_bytes if photos else None


def own_split(file: h5py.File, split: str) -> h5py.Group:
    """Return a group whose columns have one row per specimen each, in this file.

    Raises
    ------
    ValueError
        If there is none such.
    """
    group = own_member(file, split)
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{file.filename}: {split} is not a group, so this is no BIOSCAN file.")
    place = f"{file.filename}, split {split}"
    columns = {name: own_member(group, name) for name in group}
    for name, column in columns.items():
        if not isinstance(column, h5py.Dataset) or column.ndim == 0:
            raise ValueError(f"{place}: {name} does not have one row per specimen.")
    check_lengths(columns, place)
    return group


def _source(group: h5py.Group, raw: IO[bytes], rows: IntArray | None) -> SplitSource:
    taken = np.arange(len(next(iter(group.values()), ()))) if rows is None else rows
    photo_columns = (IMAGE, IMAGE_LENGTH) if IMAGE in group else ()
    columns = {name: Column(group[name], raw) for name in group if name not in photo_columns}
    layouts = {name: (_fixed_dtype(group[name]), group[name].shape[1:]) for name in columns}

    def read(block: slice) -> dict[str, npt.NDArray[Any]]:
        return {
            name: column.read(taken[block]).astype(layouts[name][0], copy=False)
            for name, column in columns.items()
        }

    if not photo_columns:
        return SplitSource(len(taken), layouts, read)
    images, lengths = Column(group[IMAGE], raw), _photo_lengths(group)[taken]

    def read_photos(block: slice) -> list[npt.NDArray[np.uint8]]:
        photos = zip(images.read(taken[block]), lengths[block].tolist(), strict=True)
        return [photo[:length] for photo, length in photos]

    run = _rows_of_a_chunk(group[IMAGE]) if rows is None else 1
    return SplitSource(len(taken), layouts, read, lengths, read_photos, run)


def _fixed_dtype(column: h5py.Dataset) -> np.dtype[Any]:
    """Return the dtype of a column, for text of variable length that of its longest one."""
    dtype: np.dtype[Any] = column.dtype
    if not dtype.hasobject:
        return dtype
    if h5py.check_string_dtype(dtype) is None:
        raise ValueError(
            f"{column.file.filename}, {column.name}: rows of variable length can be copied only "
            "for text."
        )
    longest = 1
    for start in range(0, len(column), _ROWS_AT_ONCE):
        longest = max(longest, *map(len, column[start : start + _ROWS_AT_ONCE].reshape(-1)))
    return np.dtype(f"S{longest}")


def _photo_lengths(group: h5py.Group) -> IntArray:
    images, place = group[IMAGE], f"{group.file.filename}, split {group.name.strip('/')}"
    if IMAGE_LENGTH not in group:
        raise ValueError(f"{place} has `{IMAGE}`, but lacks `{IMAGE_LENGTH}`.")
    if images.ndim != 2 or images.dtype != np.uint8:
        raise ValueError(f"{place}: `{IMAGE}` does not hold rows of bytes of photos.")
    lengths: IntArray = group[IMAGE_LENGTH][:].astype(np.int64)
    wrong = np.flatnonzero((lengths < 0) | (lengths > images.shape[1]))
    if len(wrong):
        raise ValueError(
            f"{place}, row {wrong[0]}: `{IMAGE_LENGTH}` says {lengths[wrong[0]]} bytes, but a row "
            f"of `{IMAGE}` holds {images.shape[1]}. So it is in {len(wrong)} rows. Fix the file, "
            "or build or download it again."
        )
    return lengths


def _rows_of_a_chunk(images: h5py.Dataset) -> int:
    if images.chunks is None:
        return 1
    rows: int = images.chunks[0]
    # Chunks of that many rows are better read more than once than held in memory.
    return rows if rows * images.shape[1] <= _MOST_BYTES_OF_CHUNKS else 1
