"""BIOSCAN HDF5 files: opening them, and reading rows as cheaply as their storage allows."""

import errno
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.schema import (
    BIN_COLUMNS,
    DNA_FEATURES,
    IMAGE,
    IMAGE_FEATURES,
    IMAGE_LENGTH,
    RANKS,
    TEXT_IDS,
    TEXT_MASK,
)
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

PARTIAL_SUFFIX = ".partial"
"""What the name of a file ends with while this project's tools write it."""

IntArray = npt.NDArray[np.int64]

_OF_TWO_DIMENSIONS = (IMAGE, IMAGE_FEATURES, DNA_FEATURES, TEXT_IDS, TEXT_MASK)
_EXPENSIVE = 4
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


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Say of which file HDF5 cannot read the structure; its own errors do not.

    Raises
    ------
    ValueError
        If HDF5 fails meanwhile.
    """
    try:
        yield
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error.args[0]}). Build or download it again; `bioscan-clip data "
            "verify` says what is whole."
        ) from error


def own_member(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return a group or dataset whose bytes all lie in the file itself.

    Other files, which HDF5 can refer to in three ways, may be missing, changed or private.

    Parameters
    ----------
    parent : h5py.Group
        The file, or a split of it.
    name : str
        The split or column.

    Returns
    -------
    h5py.Group or h5py.Dataset
        The member.

    Raises
    ------
    ValueError
        If it lies in another file, is a link to nothing, or is damaged.
    """
    where = f"{parent.file.filename}, {'/'.join((parent.name.strip('/'), name)).lstrip('/')}"
    others = "A file must hold all of its data itself: copy them into it, or get the file again."
    link = parent.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{where} is a link to another file, {link.filename}. {others}")
    try:
        member = parent[name]
    except (KeyError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{where} cannot be opened ({error.args[0]}): it is a link to nothing, or the file is "
            "damaged. Build or download it again."
        ) from error
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise ValueError(f"{where} keeps its values in other files. {others}")
    return member


def _nothing_there(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder: name the HDF5 file in it."
    if path.with_name(path.name + PARTIAL_SUFFIX).exists():
        return (
            f"There is no data file {path} yet, only {path.name}{PARTIAL_SUFFIX}: it is still "
            "being written, or that was cut off. Run the command that writes it again: it resumes."
        )
    return (
        f"There is no data file {path}. `bioscan-clip data sample --out {path}` writes a small one "
        "to try things; the README says where the published ones are."
    )


@dataclass(frozen=True)
class PhotoStorage:
    """How an `image` dataset lies on disk.

    Attributes
    ----------
    row_bytes : int
        Bytes of a padded row.
    touched_bytes : int
        Bytes that are read to get one row: the row itself in a contiguous dataset, else all chunks
        that it lies in, which HDF5 can only read whole.
    """

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
        uint8 ``(N, L)``.

    Returns
    -------
    PhotoStorage
        Its costs in bytes.
    """
    row_bytes = images.shape[1]
    if images.chunks is None:
        return PhotoStorage(row_bytes, row_bytes)
    rows, width = images.chunks
    return PhotoStorage(row_bytes, math.ceil(row_bytes / width) * rows * width)


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
        # Where the rows of a contiguous dataset begin in the file; None for others.
        self._start = None if dataset.dtype.hasobject else dataset.id.get_offset()
        self._row_bytes = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))

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
            uint8, shape ``(lengths[i],)`` each.

        Raises
        ------
        OSError
            If the file ends before a row does.
        """
        starts = []
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            if self._start is None:
                start = self._dataset[row, :length]
            else:
                start = np.empty(length, dtype=np.uint8)
                self._read_raw(row, start)
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


def _runs(rows: IntArray) -> Iterator[slice]:
    """Yield slices of `rows` in which each row is the one after the last."""
    starts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist()]
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        if stop > start:
            yield slice(start, stop)


class BadRowError(ValueError):
    """One row of a file cannot be used; the message names file, split and row."""


def check_lengths(columns: Mapping[str, h5py.Dataset], where: str) -> None:
    """Refuse columns of a split that differ in their number of rows.

    Raises
    ------
    ValueError
        If so; `where` says of which file and split.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
        raise ValueError(
            f"{where}: the columns differ in their number of rows ({listed}), so the file is "
            "damaged or half written; build or download it again."
        )


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
        self.photo_storage: PhotoStorage | None = None
        with damage_named(self.path), open_file(self.path) as file:
            checked = self._checked_columns(file)
            self.labels = np.empty((len(checked[RANKS[0]]), len(RANKS)), dtype=np.int64)
            for position, rank in enumerate(RANKS):
                self.labels[:, position] = encode_column(checked[rank])
            bins = [encode_column(checked[name]) for name in BIN_COLUMNS if name in checked]
            self.bins = bins[0] if bins else np.full(len(self.labels), UNKNOWN)
            if IMAGE in columns:
                self.photo_storage = photo_storage(checked[IMAGE])
                lengths = checked[IMAGE_LENGTH][:]
                lengths[(lengths < 0) | (lengths > self.photo_storage.row_bytes)] = 0
                self._photo_lengths: npt.NDArray[np.int32] = lengths.astype(np.int32)

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self.labels)

    def read(self, column: str, rows: IntArray) -> npt.NDArray[Any]:
        """Read rows of a column; see :meth:`Column.read`."""
        return self._column(column).read(rows)

    def read_jpegs(self, rows: IntArray) -> list[npt.NDArray[np.uint8]]:
        """Read the JPEG bytes of specimens' photos; `rows` as for :meth:`Column.read`.

        Returns
        -------
        list of numpy.ndarray
            uint8, shape ``(image_mask[row],)`` each; empty where `image_mask` is not within the
            row, so that it does not decode either.
        """
        return self._column(IMAGE).read_starts(rows, self._photo_lengths[rows].astype(np.int64))

    def bad_photo(self, row: int, problem: str) -> BadRowError:
        """Return the error that says why the photo of a row is of no use."""
        stated = int(self.read(IMAGE_LENGTH, np.array([row]))[0])
        width = self.photo_storage.row_bytes if self.photo_storage else 0
        if not 0 < stated <= width:
            problem = f"`{IMAGE_LENGTH}` says {stated} bytes, but a row of `{IMAGE}` holds {width}"
        return BadRowError(
            f"{self.describe(row)}: {problem}. Correct the file, or set on_bad_image=skip to train "
            "without this photo."
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

    def _checked_columns(self, file: h5py.File) -> dict[str, h5py.Dataset]:
        """Return the columns that are read, and the one of BINs if there is one."""
        if self.split not in file:
            raise ValueError(
                f"{self.path} has no split {self.split!r}. It has: {', '.join(sorted(file))}."
            )
        group, where = own_member(file, self.split), f"{self.path}, split {self.split}"
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{where} is an array, not a group of columns.")
        needed = (*RANKS, *self._names)
        missing = [name for name in needed if name not in group]
        if missing:
            raise ValueError(
                f"{where} lacks {', '.join(missing)}. It has: {', '.join(sorted(group))}."
            )
        bins = [name for name in BIN_COLUMNS if name in group][:1]
        columns = {name: own_member(group, name) for name in (*needed, *bins)}
        for name, column in columns.items():
            dimensions, shape = (2, "(N, L)") if name in _OF_TWO_DIMENSIONS else (1, "(N,)")
            if not isinstance(column, h5py.Dataset) or column.ndim != dimensions:
                raise ValueError(
                    f"{where}: `{name}` should be an array of shape {shape}, one row per specimen, "
                    f"but is {column}. Build or download the file again."
                )
        check_lengths(columns, where)
        if len(columns[RANKS[0]]) == 0:
            raise ValueError(f"{where} holds no specimens.")
        return columns
