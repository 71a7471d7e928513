"""HDF5 files whose rows are bytes at known places.

HDF5 keeps its own records in memory until a file is closed, and a process that is killed takes them
along. So such a file is laid out first, with room for every row, and closed; after that, rows are
written past HDF5, and no record changes any more.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Datasets = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""By path in the file, dtype and shape of datasets."""


def lay_out(path: Path, groups: Iterable[str], datasets: Datasets) -> None:
    """Make a file with room for every row, in place of what is at `path`.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    groups : iterable of str
        Its groups.
    datasets : mapping of str to tuple
        Its datasets.
    """
    room = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    room.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    room.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w", locking=False) as file:
        for group in groups:
            file.create_group(group)
        for name, (dtype, shape) in datasets.items():
            file.create_dataset(name, shape, dtype, dcpl=room.copy())


def find_rows(path: Path, datasets: Datasets) -> dict[str, int]:
    """Return where in a file that was laid out the rows of each dataset begin.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    datasets : mapping of str to tuple
        Its datasets.

    Returns
    -------
    dict of str to int
        Offset in bytes, for each dataset that has rows.
    """
    with h5py.File(path, "r", locking=False) as file:
        return {
            name: file[name].id.get_offset() for name, (_, shape) in datasets.items() if shape[0]
        }


def write_at(handle: int, values: npt.NDArray[Any], place: int) -> None:
    """Write the bytes of an array at a place in an open file.

    Parameters
    ----------
    handle : int
        File descriptor.
    values : numpy.ndarray
        Any shape and any dtype that HDF5 stores as it is in memory.
    place : int
        Offset in bytes.
    """
    left = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    while left:
        written = os.pwrite(handle, left, place)
        left, place = left[written:], place + written
