"""One split of a BIOSCAN HDF5 file, opened where and when it is read."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.files import open_file
from projects.bioscan_clip.datasets.schema import BIN_COLUMNS, IMAGE, IMAGE_LENGTH, RANKS
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
        If it is not HDF5, the split or a column is missing, or columns differ in length.
    """

    def __init__(self, path: str | Path, split: str, columns: tuple[str, ...]) -> None:
        self.path = Path(path).expanduser()
        self.split = split
        self._columns = columns
        self._handles: dict[str, h5py.Dataset] = {}
        self._owner = -1
        with open_file(self.path) as file:
            group = self._checked_group(file)
            self._length = len(group[RANKS[0]])
            self.labels = np.stack([encode_column(group[rank]) for rank in RANKS], axis=1)
            self.bins = self._read_bins(group)
            self._image_lengths = group[IMAGE_LENGTH][:] if IMAGE in columns else None

    def __len__(self) -> int:
        """Return the number of specimens."""
        return self._length

    def read(self, column: str, row: int) -> Any:
        """Return one row of a column, as h5py gives it."""
        return self._dataset(column)[row]

    def read_jpeg(self, row: int) -> npt.NDArray[np.uint8]:
        """Return the JPEG bytes of a specimen's photo.

        Parameters
        ----------
        row : int
            Row in the split.

        Returns
        -------
        numpy.ndarray
            uint8, shape ``(image_mask[row],)``.

        Raises
        ------
        BadRowError
            If ``image_mask`` is not within the row.
        """
        images = self._dataset(IMAGE)
        assert self._image_lengths is not None
        length = int(self._image_lengths[row])
        if not 0 < length <= images.shape[1]:
            raise BadRowError(
                f"{self.describe(row)}: `{IMAGE_LENGTH}` says {length} bytes, but a row of "
                f"`{IMAGE}` holds {images.shape[1]}."
            )
        jpeg: npt.NDArray[np.uint8] = images[row, :length]
        return jpeg.astype(np.uint8, copy=False)

    def describe(self, row: int) -> str:
        """Return where a row is, for messages."""
        return f"{self.path}, split {self.split}, row {row}"

    def __getstate__(self) -> dict[str, Any]:
        """Leave open handles behind when the object is sent to a worker."""
        return self.__dict__ | {"_handles": {}, "_owner": -1}

    def _dataset(self, column: str) -> h5py.Dataset:
        if self._owner != os.getpid():
            group = open_file(self.path)[self.split]
            self._handles = {name: group[name] for name in self._columns}
            self._owner = os.getpid()
        return self._handles[column]

    def _checked_group(self, file: h5py.File) -> h5py.Group:
        if self.split not in file:
            raise ValueError(
                f"{self.path} has no split {self.split!r}. It has: {', '.join(sorted(file))}."
            )
        group = file[self.split]
        needed = dict.fromkeys(
            [*RANKS, *self._columns, *([IMAGE_LENGTH] * (IMAGE in self._columns))]
        )
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
        return group

    def _read_bins(self, group: h5py.Group) -> npt.NDArray[np.int64]:
        for column in BIN_COLUMNS:
            if column in group:
                return encode_column(group[column])
        return np.full(self._length, UNKNOWN)
