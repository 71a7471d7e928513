"""The splits of a file that exists, as sources to write another one from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.writing import SplitSource
from projects.bioscan_clip.datasets.hdf5 import Column, IntArray, open_file
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH

_ROWS_AT_ONCE = 1 << 16
_MOST_BYTES_OF_CHUNKS = 1 << 28


@contextmanager
def split_sources(
    path: Path, rows: Mapping[str, IntArray] | None = None
) -> Iterator[dict[str, SplitSource]]:
    """Open a file and yield a source for each of its groups, until the context ends.

    Blocks of the sources fit the chunks of photos, so that each chunk is read once.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    rows : mapping of str to numpy.ndarray, optional
        For each group, the rows to take, ascending int64, shape ``(n,)``. All rows by default.

    Yields
    ------
    dict of str to SplitSource
        The source of each group. Texts of variable length are read as ones of fixed length.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds what such a file cannot.
    """
    with open_file(path) as file, Path(file.filename).open("rb", buffering=0) as raw:
        for name, member in file.items():
            if not isinstance(member, h5py.Group):
                raise ValueError(f"{path}: {name} is not a group, so this is not a BIOSCAN file.")
        yield {
            split: _source(group, raw, None if rows is None else rows[split])
            for split, group in file.items()
        }


def identity_of(path: Path) -> str:
    """Return a text that changes when a file does.

    Parameters
    ----------
    path : pathlib.Path
        An existing file.

    Returns
    -------
    str
        Its full path, size in bytes and time of its last change.
    """
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def check_distinct(path: Path, out: Path) -> None:
    """Raise a ValueError if the file to write is the one that is read."""
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"--out is {path} itself, which is read. Give another path.")


def _source(group: h5py.Group, raw: IO[bytes], rows: IntArray | None) -> SplitSource:
    length = _length(group)
    taken = np.arange(length) if rows is None else rows
    has_photos = IMAGE in group
    if has_photos and IMAGE_LENGTH not in group:
        raise ValueError(f"{_place(group)} has `{IMAGE}`, but lacks `{IMAGE_LENGTH}`.")
    photo_columns = (IMAGE, IMAGE_LENGTH) if has_photos else ()
    columns = {name: Column(group[name], raw) for name in group if name not in photo_columns}
    layouts = {name: (_fixed_dtype(group[name]), group[name].shape[1:]) for name in columns}

    def read(block: slice) -> dict[str, npt.NDArray[Any]]:
        return {
            name: column.read(taken[block]).astype(layouts[name][0], copy=False)
            for name, column in columns.items()
        }

    if not has_photos:
        return SplitSource(len(taken), layouts, read)
    images, lengths = Column(group[IMAGE], raw), _photo_lengths(group)[taken]

    def read_photos(block: slice) -> list[npt.NDArray[np.uint8]]:
        photos = zip(images.read(taken[block]), lengths[block].tolist(), strict=True)
        return [photo[:length] for photo, length in photos]

    run = _rows_of_a_chunk(group[IMAGE]) if rows is None else 1
    return SplitSource(len(taken), layouts, read, lengths, read_photos, run)


def _length(group: h5py.Group) -> int:
    """Return the number of rows of every dataset of a group."""
    lengths = {}
    for name, column in group.items():
        if not isinstance(column, h5py.Dataset) or column.ndim == 0:
            raise ValueError(f"{_place(group)}: {name} does not have one row per specimen.")
        lengths[name] = len(column)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
        raise ValueError(
            f"{_place(group)}: the columns differ in their number of rows ({listed}), so the file "
            "is damaged or half written; build or download it again."
        )
    return next(iter(lengths.values()), 0)


def _fixed_dtype(column: h5py.Dataset) -> np.dtype[Any]:
    """Return the dtype of a column, for text of variable length that of its longest one."""
    dtype: np.dtype[Any] = column.dtype
    if not dtype.hasobject:
        return dtype
    if h5py.check_string_dtype(dtype) is None:
        raise ValueError(
            f"{column.file.filename}, {column.name}: rows of variable length can be copied only "
            f"for `{IMAGE}` and for text."
        )
    longest = 1
    for start in range(0, len(column), _ROWS_AT_ONCE):
        longest = max(longest, *map(len, column[start : start + _ROWS_AT_ONCE].reshape(-1)))
    return np.dtype(f"S{longest}")


def _photo_lengths(group: h5py.Group) -> IntArray:
    images = group[IMAGE]
    is_variable = images.ndim == 1 and h5py.check_vlen_dtype(images.dtype) == np.uint8
    if not is_variable and (images.ndim != 2 or images.dtype != np.uint8):
        raise ValueError(f"{_place(group)}: `{IMAGE}` does not hold bytes of photos.")
    lengths: IntArray = group[IMAGE_LENGTH][:].astype(np.int64)
    longest = np.iinfo(np.int32).max if is_variable else images.shape[1]
    wrong = np.flatnonzero((lengths < 0) | (lengths > longest))
    if len(wrong):
        raise ValueError(
            f"{_place(group)}, row {wrong[0]}: `{IMAGE_LENGTH}` says {lengths[wrong[0]]} bytes, "
            f"but a row of `{IMAGE}` holds {longest}. So it is in {len(wrong)} rows. Mend the "
            "file, or build or download it again."
        )
    return lengths


def _rows_of_a_chunk(images: h5py.Dataset) -> int:
    if images.chunks is None or images.ndim == 1:
        return 1
    rows: int = images.chunks[0]
    # Chunks of that many rows are better read more than once than held in memory.
    return rows if rows * images.shape[1] <= _MOST_BYTES_OF_CHUNKS else 1


def _place(group: h5py.Group) -> str:
    return f"{group.file.filename}, split {group.name.strip('/')}"
