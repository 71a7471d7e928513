"""Rewriting a file so that reading one photo costs one photo."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from projects.bioscan_clip.data_tools.reading import check_distinct, identity_of, split_sources
from projects.bioscan_clip.data_tools.writing import (
    PhotoLayout,
    SplitSource,
    bytes_progress,
    write_file,
)
from projects.bioscan_clip.datasets.hdf5 import open_file, photo_storage
from projects.bioscan_clip.datasets.schema import IMAGE, IMAGE_LENGTH


def repack(path: Path, out: Path, layout: PhotoLayout = "rows") -> None:
    """Write the groups and columns of a file to another one, photos in another layout.

    Every value is compared with the source before the new file appears. A call that was cut off can
    be repeated to go on. Attributes are not kept; the files of this project have none.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file to read, its photos in rows, chunks or of variable length.
    out : pathlib.Path
        The HDF5 file to write.
    layout : {"rows", "variable-length"}, default="rows"
        See :func:`~projects.bioscan_clip.data_tools.writing.write_file`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, `out` is the same file, or was begun from another one.
    OSError
        If `out` cannot be written, or does not hold what was written to it.
    """
    check_distinct(path, out)
    with split_sources(path) as sources:

        def check(written: Path) -> None:
            with split_sources(written) as copies:
                compare(sources, copies, written)

        identity = f"repack {identity_of(path)}"
        write_file(out, sources, identity=identity, layout=layout, check=check)


def compare(
    sources: Mapping[str, SplitSource], copies: Mapping[str, SplitSource], written: Path
) -> None:
    """Compare every value of a file with its source.

    Parameters
    ----------
    sources, copies : mapping of str to SplitSource
        What was to be written, and what was.
    written : pathlib.Path
        The file, for messages.

    Raises
    ------
    OSError
        If any value differs; the message names the first place.
    """
    with bytes_progress() as progress:
        total = sum(source.size() for source in sources.values())
        task = progress.add_task("Comparing", total=total)
        for split, source in sources.items():
            for rows in source.blocks():
                place = _first_difference(source, copies[split], rows)
                if place is not None:
                    raise OSError(
                        f"{written}, split {split}, {place} is not as in the source: the disk did "
                        "not keep what was written, or the source changed. Delete "
                        f"{written.name} and run the command again."
                    )
                progress.advance(task, source.size(rows))


def print_storage(*paths: Path) -> None:
    """Print how files store photos, and what reading one costs.

    Parameters
    ----------
    *paths : pathlib.Path
        HDF5 files.
    """
    table = Table(Column("File", overflow="fold"), "Size", "Photos", "Read for one photo")
    for path in paths:
        with open_file(path) as file:
            photos, cost = _describe_photos(file)
        table.add_row(str(path), decimal(path.stat().st_size), photos, cost)
    Console().print(table)


def _describe_photos(file: h5py.File) -> tuple[str, str]:
    """Return how photos are stored, and how many bytes are read for one."""
    groups = [group for group in file.values() if IMAGE in group]
    if not groups:
        return "none", "-"
    storage = photo_storage(groups[0][IMAGE])
    if storage.layout == "variable-length":
        lengths = np.concatenate([group[IMAGE_LENGTH][:] for group in groups])
        mean = round(lengths.sum() / max(1, len(lengths)))
        return "variable length", f"{decimal(mean)} on average"
    if storage.layout == "chunks":
        return f"chunks of {groups[0][IMAGE].chunks}", decimal(storage.touched_bytes)
    return "rows", decimal(storage.touched_bytes)


def _first_difference(source: SplitSource, copy: SplitSource, rows: slice) -> str | None:
    """Return the column and row where a copy first differs within a run of rows."""
    expected, found = source.read(rows), copy.read(rows)
    for name, values in expected.items():
        # Bytes, since a number that is none does not equal itself.
        differs = np.flatnonzero(_row_bytes(values) != _row_bytes(found[name]))
        if len(differs):
            return f"{name}, row {rows.start + differs[0]}"
    if source.read_photos is None or copy.read_photos is None:
        return None
    photos = zip(source.read_photos(rows), copy.read_photos(rows), strict=True)
    for row, (photo, copied) in enumerate(photos, start=rows.start):
        if not np.array_equal(photo, copied):
            return f"{IMAGE}, row {row}"
    return None


def _row_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Return each row as one item of raw bytes."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    rows: npt.NDArray[np.void] = flat.view(f"V{flat.shape[1] * flat.itemsize}")[:, 0]
    return rows
