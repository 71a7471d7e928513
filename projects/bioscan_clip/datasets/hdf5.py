"""BIOSCAN HDF5 files: opening them, and reading rows as cheaply as their storage allows."""

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.schema import BIN_COLUMNS, IMAGE, IMAGE_LENGTH, RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

PARTIAL_SUFFIX = ".partial"
"""What the name of a file ends with while this project's tools write it."""

_CHUNK_CACHE = 8 << 20  # a row of the published 5M file lies in 0.9 MB of chunks, read whole


def open_file(path: str | Path) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    path : str or pathlib.Path
        The HDF5 file; ``~`` is expanded.

    Returns
    -------
    h5py.File
        The open file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not HDF5, is incomplete, or is being written by another program.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(_nothing_there(path))
    try:
        # Shared cluster disks often refuse locks, and reading needs none.
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_CHUNK_CACHE)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES) and "lock" in str(error):
            raise ValueError(
                f"{path} is being written by another program. Wait until it is done."
            ) from error
        raise ValueError(
            f"{path} cannot be read as HDF5 ({error}). If it was downloaded or copied, that may be "
            "incomplete: compare its size with the original's."
        ) from error


def _nothing_there(path: Path) -> str:
    if path.with_name(path.name + PARTIAL_SUFFIX).exists():
        return (
            f"There is no data file {path} yet, only {path.name}{PARTIAL_SUFFIX}: it is still "
            "being written, or that was cut off. Run the command that writes it again to go on."
        )
    return (
        f"There is no data file {path}. `bioscan-clip data sample --out {path}` writes a small one "
        "to try things; the README says where the published ones are."
    )


_EXPENSIVE = 4


@dataclass(frozen=True)
class PhotoStorage:
    """How an `image` dataset lies on disk.

    Attributes
    ----------
    layout : {"rows", "chunks", "variable-length"}
        ``rows``: one run of bytes per photo (a contiguous dataset). ``chunks``: HDF5 chunks, which
        can only be read whole. ``variable-length``: one array of its own length per photo.
    row_bytes : int
        Bytes of a padded row; 0 for ``variable-length``.
    touched_bytes : int
        Bytes of the chunks that one row lies in; `row_bytes` for ``rows``.
    """

    layout: Literal["rows", "chunks", "variable-length"]
    row_bytes: int
    touched_bytes: int

    @property
    def is_expensive(self) -> bool:
        """Whether reading one photo reads several times its row from disk."""
        return self.touched_bytes > _EXPENSIVE * self.row_bytes


def photo_storage(images: h5py.Dataset) -> PhotoStorage:
    """Return how an `image` dataset lies on disk.

    The published builder of BIOSCAN-5M leaves the shape of chunks to h5py, which takes (32, 1850):
    a row of 29,598 bytes lies in 16 chunks, 947,200 bytes in all.

    Parameters
    ----------
    images : h5py.Dataset
        uint8 ``(N, L)``, or ``(N,)`` of variable-length uint8.

    Returns
    -------
    PhotoStorage
        Its layout and costs in bytes.
    """
    if images.ndim == 1:
        return PhotoStorage("variable-length", 0, 0)
    row_bytes = images.shape[1]
    if images.chunks is None:
        return PhotoStorage("rows", row_bytes, row_bytes)
    rows, width = images.chunks
    touched = math.ceil(row_bytes / width) * rows * width
    return PhotoStorage("chunks", row_bytes, touched)


IntArray = npt.NDArray[np.int64]


class Column:
    """One dataset of an open file.

    A contiguous dataset is a run of bytes at a known place, so its rows are read straight from the
    file, at a tenth of the time or less that the HDF5 library takes. Any other is read by h5py.

    Parameters
    ----------
    dataset : h5py.Dataset
        One row per specimen.
    raw : file object
        The same file, open for unbuffered binary reading.
    """

    def __init__(self, dataset: h5py.Dataset, raw: IO[bytes]) -> None:
        self._dataset = dataset
        self._raw = raw
        self._start = _start_of_rows(dataset)
        self._row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))

    @property
    def width(self) -> int | None:
        """Values in a row; None if each row has its own number."""
        return self._dataset.shape[1] if self._dataset.ndim > 1 else None

    def read(self, rows: IntArray) -> npt.NDArray[Any]:
        """Read whole rows.

        Parameters
        ----------
        rows : numpy.ndarray
            int64, shape ``(B,)``, in any order.

        Returns
        -------
        numpy.ndarray
            Shape ``(B, ...)``, in the dtype of the dataset.

        Raises
        ------
        OSError
            If the file ends before a row does.
        """
        values = np.empty((len(rows), *self._dataset.shape[1:]), dtype=self._dataset.dtype)
        for run in _runs(rows):
            first = int(rows[run.start])
            if self._start is None:
                values[run] = self._dataset[first : first + run.stop - run.start]
            else:
                self._read_raw(first, values[run])
        return values

    def read_starts(self, rows: IntArray, lengths: IntArray) -> list[npt.NDArray[np.uint8]]:
        """Read the first values of rows of bytes, and no more than these.

        Parameters
        ----------
        rows, lengths : numpy.ndarray
            int64, shape ``(B,)``.

        Returns
        -------
        list of numpy.ndarray
            uint8, shape ``(lengths[i],)`` each; shorter where a row of variable length is.

        Raises
        ------
        OSError
            If the file ends before a row does.
        """
        starts = []
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            if self._start is not None:
                start = np.empty(length, dtype=np.uint8)
                self._read_raw(row, start)
            elif self.width is None:
                start = self._dataset[row][:length]
            else:
                start = self._dataset[row, :length]
            starts.append(start)
        return starts

    def _read_raw(self, row: int, target: npt.NDArray[Any]) -> None:
        assert self._start is not None
        buffer = memoryview(target.view(np.uint8).reshape(-1).data)
        offset = self._start + row * self._row_bytes
        if os.preadv(self._raw.fileno(), [buffer], offset) != len(buffer):
            raise OSError(
                f"{self._dataset.file.filename} ends before row {row} of {self._dataset.name}: it "
                "was cut off while it was read. Copy or download it again."
            )


def _start_of_rows(dataset: h5py.Dataset) -> int | None:
    """Return where in the file the rows of a contiguous dataset begin, else None."""
    if dataset.external or dataset.is_virtual or dataset.dtype.hasobject:
        return None
    start: int | None = dataset.id.get_offset()
    return start


def _runs(rows: IntArray) -> Iterator[slice]:
    """Yield slices of `rows` in which each row is the one after the last."""
    starts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        if stop > start:
            yield slice(start, stop)


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
