"""One split of a BIOSCAN HDF5 file, opened where and when it is read."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.columns import Column, IntArray
from projects.bioscan_clip.datasets.files import open_file
from projects.bioscan_clip.datasets.schema import BIN_COLUMNS, IMAGE, IMAGE_LENGTH, RANKS
from projects.bioscan_clip.datasets.storage import photo_storage
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column


class BadRowError(ValueError):
    """One row of a file cannot be used; the message names file, split and row."""


class HDF5Split:
    """Read rows of one split.

    The file is checked and closed again when the object is made, and opened anew by each process at
    its first read: an HDF5 handle must not cross a fork.

    Parameters
    ----------
    path : str or pathlib.Path
        The HDF5 file.
    split : str
        Group to read.
    columns : tuple of str
        Datasets that will be read besides the labels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, the split or a column is missing, columns differ in length, or the split
        has no rows.

    Attributes
    ----------
    labels : numpy.ndarray
        int64, shape ``(N, 4)``; codes of order, family, genus and species, -1 if unknown.
    bins : numpy.ndarray
        int64, shape ``(N,)``; codes of Barcode Index Numbers, -1 if unknown.
    photo_storage : PhotoStorage or None
        How photos lie on disk; None if they are not among the columns.
    """

    def __init__(self, path: str | Path, split: str, columns: tuple[str, ...]) -> None:
        self.path = Path(path).expanduser()
        self.split = split
        self._names = (*columns, IMAGE_LENGTH) if IMAGE in columns else columns
        self._columns: dict[str, Column] = {}
        self._owner = -1
        with open_file(self.path) as file:
            group = self._checked_group(file)
            self._length = len(group[RANKS[0]])
            self.labels = np.empty((self._length, len(RANKS)), dtype=np.int64)
            for position, rank in enumerate(RANKS):
                self.labels[:, position] = encode_column(group[rank])
            self.bins = self._read_bins(group)
            self.photo_storage = photo_storage(group[IMAGE]) if IMAGE in columns else None
            self._photo_lengths = _photo_lengths(group) if IMAGE in columns else None

    def __len__(self) -> int:
        """Return the number of specimens."""
        return self._length

    def read(self, column: str, rows: IntArray) -> npt.NDArray[Any]:
        """Read rows of a column; see :meth:`Column.read`."""
        return self._column(column).read(rows)

    def read_jpegs(self, rows: IntArray) -> list[npt.NDArray[np.uint8]]:
        """Read the JPEG bytes of specimens' photos.

        Parameters
        ----------
        rows : numpy.ndarray
            int64, shape ``(B,)``, in any order.

        Returns
        -------
        list of numpy.ndarray
            uint8, shape ``(image_mask[row],)`` each; empty where `image_mask` is not within the
            row, so that it does not decode either.
        """
        assert self._photo_lengths is not None
        return self._column(IMAGE).read_starts(rows, self._photo_lengths[rows].astype(np.int64))

    def bad_photo(self, row: int) -> BadRowError:
        """Return the error that says why the photo of a row does not decode."""
        stated, width = int(self.read(IMAGE_LENGTH, np.array([row]))[0]), self._column(IMAGE).width
        if stated <= 0 or (width is not None and stated > width):
            return BadRowError(
                f"{self.describe(row)}: `{IMAGE_LENGTH}` says {stated} bytes, but a row of "
                f"`{IMAGE}` holds {width or 'at least one'}."
            )
        return BadRowError(
            f"{self.describe(row)}: the photo does not decode. Mend the file, or set "
            "on_bad_image=skip to train without it."
        )

    def describe(self, row: int) -> str:
        """Return where a row is, for messages."""
        return f"{self.path}, split {self.split}, row {row}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave open handles behind when the object is sent to a worker."""
        return self.__dict__ | {"_columns": {}, "_owner": -1}

    def _column(self, name: str) -> Column:
        if self._owner != os.getpid():
            group = open_file(self.path)[self.split]
            raw = self.path.open("rb", buffering=0)
            self._columns = {column: Column(group[column], raw) for column in self._names}
            self._owner = os.getpid()
        return self._columns[name]

    def _checked_group(self, file: h5py.File) -> h5py.Group:
        if self.split not in file:
            raise ValueError(
                f"{self.path} has no split {self.split!r}. It has: {', '.join(sorted(file))}."
            )
        group = file[self.split]
        needed = (*RANKS, *self._names)
        missing = [name for name in needed if name not in group]
        if missing:
            raise ValueError(
                f"{self.path}, split {self.split} lacks {', '.join(missing)}. "
                f"It has: {', '.join(sorted(group))}."
            )
        lengths = {name: len(group[name]) for name in needed}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
            raise ValueError(
                f"{self.path}, split {self.split}: the columns differ in their number of rows "
                f"({listed}), so the file is damaged or half written; build or download it again."
            )
        if lengths[RANKS[0]] == 0:
            raise ValueError(f"{self.path}, split {self.split} holds no specimens.")
        return group

    def _read_bins(self, group: h5py.Group) -> npt.NDArray[np.int64]:
        for column in BIN_COLUMNS:
            if column in group:
                return encode_column(group[column])
        return np.full(self._length, UNKNOWN)


def _photo_lengths(group: h5py.Group) -> npt.NDArray[np.int32]:
    """Return the length of each JPEG; 0 where the file says what cannot be."""
    lengths: IntArray = group[IMAGE_LENGTH][:]
    images = group[IMAGE]
    longest = images.shape[1] if images.ndim > 1 else np.iinfo(np.int32).max
    lengths[(lengths < 0) | (lengths > longest)] = 0
    return lengths.astype(np.int32)
