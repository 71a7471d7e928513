"""Columns of a split, read in blocks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.checks.finding import Problem

Block = dict[str, npt.NDArray[Any]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

ROWS_AT_ONCE = 1 << 14


def blocks(columns: Mapping[str, h5py.Dataset]) -> Iterator[tuple[int, Block]]:
    """Yield the first row and the values of consecutive runs of rows.

    Parameters
    ----------
    columns : mapping of str to h5py.Dataset
        Columns of one split, by any name, with the same number of rows.

    Yields
    ------
    start : int
        The first row.
    block : dict of str to numpy.ndarray
        Values by the names of `columns`; text of any kind as fixed-length bytes.
    """
    length = min(len(column) for column in columns.values())
    for start in range(0, length, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield start, {name: as_bytes(column[rows]) for name, column in columns.items()}


def as_bytes(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return text that h5py reads as Python objects as an array of bytes; others unchanged."""
    return values.astype(bytes) if values.dtype == object else values


def rows_with_problems(
    columns: Mapping[str, h5py.Dataset], inspect: Callable[[Block], dict[Problem, BoolArray]]
) -> dict[Problem, IntArray]:
    """Inspect a split block by block.

    Parameters
    ----------
    columns : mapping of str to h5py.Dataset
        What `inspect` needs.
    inspect : callable
        Takes a block, returns for each problem which rows of the block have it.

    Returns
    -------
    dict of Problem to numpy.ndarray
        Rows with each problem, int64, ascending.
    """
    found: defaultdict[Problem, list[IntArray]] = defaultdict(list)
    for start, block in blocks(columns):
        for problem, wrong in inspect(block).items():
            found[problem].append(start + np.flatnonzero(wrong))
    return {problem: np.concatenate(rows) for problem, rows in found.items()}


def text_at(column: h5py.Dataset, rows: IntArray) -> list[str]:
    """Return the text of a few rows, with the bytes that are not UTF-8 shown as escapes."""
    values = (column[int(row)] for row in rows)
    return [value.decode("utf-8", "backslashreplace") for value in values]
