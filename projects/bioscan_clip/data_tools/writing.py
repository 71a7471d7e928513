"""Writing a BIOSCAN HDF5 file, so that a kill at any time costs no more than a block of rows."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from projects.bioscan_clip.data_tools.contiguous import Datasets, find_rows, lay_out, write_at
from projects.bioscan_clip.data_tools.partial import PartialFile, partial_file
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH

PhotoLayout = Literal["rows", "variable-length"]

_BLOCK_BYTES = 1 << 25

_Columns = dict[str, npt.NDArray[Any]]
_Jpegs = Sequence[npt.NDArray[np.uint8]]


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
    columns: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    read: Callable[[slice], Mapping[str, npt.NDArray[Any]]]
    photo_lengths: npt.NDArray[np.int64] | None = None
    read_photos: Callable[[slice], _Jpegs] | None = None
    run: int = 1

    def blocks(self, first: int = 0) -> Iterator[slice]:
        """Yield the rows from `first` on, in blocks of about 32 MB."""
        longest = 0 if self.photo_lengths is None else int(self.photo_lengths.max(initial=0))
        rows = _BLOCK_BYTES // max(1, self._column_bytes() + longest)
        step = max(rows // self.run, 1) * self.run
        for start in range(first, self.length, step):
            yield slice(start, min(start + step, self.length))

    def size(self, rows: slice = slice(None)) -> int:
        """Return the bytes that rows hold, photos without padding."""
        photos = 0 if self.photo_lengths is None else int(self.photo_lengths[rows].sum())
        return len(range(self.length)[rows]) * self._column_bytes() + photos

    def _column_bytes(self) -> int:
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.columns.values())


def write_file(
    path: Path,
    splits: Mapping[str, SplitSource],
    *,
    identity: str,
    layout: PhotoLayout = "rows",
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a file, or go on writing it.

    It is written beside `path`, to a file whose name ends with ``.partial``, and takes its place
    when it is complete. After a kill or an error, a call with the same arguments goes on after the
    last block of rows and ends with the same bytes as an undisturbed one. With `layout`
    ``"variable-length"``, it starts over.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    splits : mapping of str to SplitSource
        Contents of each group.
    identity : str
        What is written from what: paths, sizes and dates of sources, options.
    layout : {"rows", "variable-length"}, default="rows"
        ``rows``: `image` is uint8, shape ``(N, L)``, padded with zeros to the longest photo of all
        splits. ``variable-length``: `image` is ``(N,)`` arrays of uint8.
    check : callable, optional
        Is called with the path of the complete file before that takes its place, and raises an
        error if it must not.

    Raises
    ------
    ValueError
        If ``path.partial`` was begun with another `identity` or is being written by another
        process, or a source does not return what it promises.
    OSError
        If the disk has too little room for the file, or anything else hinders writing.
    """
    datasets = _datasets(splits, layout)
    plan = json.dumps([identity, layout, {k: [str(d), s] for k, (d, s) in datasets.items()}])
    size = sum(source.size() for source in splits.values())
    if layout == "rows":
        size = sum(dtype.itemsize * math.prod(shape) for dtype, shape in datasets.values())
    with partial_file(path, plan, size) as partial:
        if layout == "rows":
            _write_rows(partial, splits, datasets)
        else:
            _write_variable_length(partial.path, splits, datasets)
        if check is not None:
            partial.allow_reading()
            check(partial.path)


def bytes_progress() -> Progress:
    """Return a progress bar on the standard error that counts bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _datasets(splits: Mapping[str, SplitSource], layout: PhotoLayout) -> Datasets:
    """Return dtype and shape of every dataset in the file."""
    lengths = [s.photo_lengths for s in splits.values() if s.photo_lengths is not None]
    longest = max((int(each.max(initial=1)) for each in lengths), default=1)
    photo: tuple[np.dtype[Any], tuple[int, ...]] = (np.dtype(np.uint8), (longest,))
    if layout == "variable-length":
        photo = (h5py.vlen_dtype(np.uint8), ())
    datasets = {}
    for split, source in splits.items():
        columns = dict(source.columns)
        if source.photo_lengths is not None:
            columns |= {IMAGE: photo, IMAGE_LENGTH: (np.dtype(np.int64), ())}
        for name, (dtype, shape) in columns.items():
            datasets[f"{split}/{name}"] = (dtype, (source.length, *shape))
    return datasets


def _write_rows(
    partial: PartialFile, splits: Mapping[str, SplitSource], datasets: Datasets
) -> None:
    if partial.rows_done is None:
        lay_out(partial.path, splits, datasets)
        partial.record(0)
    places = find_rows(partial.path, datasets)
    done = partial.rows_done or 0
    with bytes_progress() as progress:
        for split, rows, columns, jpegs in _blocks(splits, done, progress):
            if jpegs is not None:
                columns[IMAGE] = _padded(jpegs, datasets[f"{split}/{IMAGE}"][1][1])
            for name, values in columns.items():
                row_bytes = values.nbytes // len(values)
                write_at(partial.handle, values, places[f"{split}/{name}"] + rows.start * row_bytes)
            done += rows.stop - rows.start
            partial.record(done)


def _padded(jpegs: _Jpegs, width: int) -> npt.NDArray[np.uint8]:
    padded = np.zeros((len(jpegs), width), dtype=np.uint8)
    for row, jpeg in zip(padded, jpegs, strict=True):
        row[: len(jpeg)] = jpeg
    return padded


def _write_variable_length(
    path: Path, splits: Mapping[str, SplitSource], datasets: Datasets
) -> None:
    with h5py.File(path, "w", locking=False) as file, bytes_progress() as progress:
        for split in splits:
            file.create_group(split)
        for name, (dtype, shape) in datasets.items():
            file.create_dataset(name, shape, dtype)
        for split, rows, columns, jpegs in _blocks(splits, 0, progress):
            for name, values in columns.items():
                file[split][name][rows] = values
            for row, jpeg in enumerate(jpegs or (), start=rows.start):
                file[split][IMAGE][row] = jpeg


def _blocks(
    splits: Mapping[str, SplitSource], done: int, progress: Progress
) -> Iterator[tuple[str, slice, _Columns, _Jpegs | None]]:
    """Yield split, rows, columns and photos of each block after the first `done` rows."""
    starts = _starts(splits, done)
    task = progress.add_task(
        "Writing",
        total=sum(source.size() for source in splits.values()),
        completed=sum(splits[split].size(slice(first)) for split, first in starts.items()),
    )
    for split, source in splits.items():
        for rows in source.blocks(starts[split]):
            yield split, rows, _read_columns(split, source, rows), _read_jpegs(split, source, rows)
            progress.advance(task, source.size(rows))


def _starts(splits: Mapping[str, SplitSource], done: int) -> dict[str, int]:
    """Return the first row of each split that is not among the first `done` rows of the file."""
    starts = {}
    for split, source in splits.items():
        starts[split] = min(done, source.length)
        done -= starts[split]
    return starts


def _read_columns(split: str, source: SplitSource, rows: slice) -> _Columns:
    read = source.read(rows)
    columns: _Columns = {}
    for name, (dtype, shape) in source.columns.items():
        columns[name] = read[name].astype(dtype, casting="safe", copy=False)
        if columns[name].shape != (rows.stop - rows.start, *shape):
            raise ValueError(
                f"Split {split}, {name}: rows {rows.start} to {rows.stop} have the shape "
                f"{columns[name].shape}."
            )
    if source.photo_lengths is not None:
        columns[IMAGE_LENGTH] = source.photo_lengths[rows].astype(np.int64)
    return columns


def _read_jpegs(split: str, source: SplitSource, rows: slice) -> _Jpegs | None:
    if source.photo_lengths is None or source.read_photos is None:
        return None
    jpegs = source.read_photos(rows)
    lengths = source.photo_lengths[rows].tolist()
    for row, (jpeg, length) in enumerate(zip(jpegs, lengths, strict=True), start=rows.start):
        if len(jpeg) != length:
            raise ValueError(
                f"Split {split}, row {row}: the photo has {len(jpeg)} bytes, not {length}."
            )
    return jpegs
