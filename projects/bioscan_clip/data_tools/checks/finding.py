"""What a check of a file found, and reading the columns that it looks at."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import h5py
import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning"]
Subject = Literal["layout", "photos", "labels", "splits", "barcodes", "tokens"]
Block = dict[str, npt.NDArray[Any]]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

HDF5_ERRORS: Final = (OSError, RuntimeError, KeyError, TypeError, ValueError)
"""What h5py raises where a file is damaged."""

_EXAMPLES = 5  # of the rows or names with a problem that are listed
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file, and where.

    Attributes
    ----------
    subject : str
        What was checked.
    severity : {"error", "warning"}
        An error spoils training or scores, or stops them; a warning is for a person to judge.
    message, remedy : str
        What is wrong, and what to do about it.
    split : str, optional
        Where; None if it concerns the whole file.
    count : int
        Number of rows or names concerned; 0 if it is not about such.
    rows : tuple of int
        The first of these rows.
    names : tuple of str
        Some of the names concerned.
    """

    subject: Subject
    severity: Severity
    message: str
    remedy: str
    split: str | None = None
    count: int = 0
    rows: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def at(self, split: str, rows: IntArray, names: Sequence[str] = ()) -> "list[Finding]":
        """Return this finding about rows of a split, int64, ascending; none if there are none."""
        if len(rows) == 0:
            return []
        first = tuple(rows[:_EXAMPLES].tolist())
        shown = tuple(names[:_EXAMPLES])
        return [replace(self, split=split, count=len(rows), rows=first, names=shown)]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.split is None:
            return "whole file"
        if not self.rows:
            return self.split
        rows = ", ".join(map(str, self.rows)) + (", …" if self.count > len(self.rows) else "")
        return f"{self.split}, row {rows}" if self.count == 1 else f"{self.split}, rows {rows}"

    @property
    def sentence(self) -> str:
        """What is wrong, with the number of rows and the first names."""
        words = self.message
        if self.rows and self.count > 1:
            words = f"in {self.count:,} rows, {words}"
        if self.names:
            words += f" (such as {', '.join(self.names)})"
        return words + "."


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
    for start in range(0, length, _ROWS_AT_ONCE):
        values = {name: column[start : start + _ROWS_AT_ONCE] for name, column in columns.items()}
        yield start, {k: v.astype(bytes) if v.dtype == object else v for k, v in values.items()}


def rows_with(
    columns: Mapping[str, h5py.Dataset], inspect: Callable[[Block], dict[Finding, BoolArray]]
) -> dict[Finding, IntArray]:
    """Inspect columns of a split block by block.

    Parameters
    ----------
    columns : mapping of str to h5py.Dataset
        What `inspect` needs.
    inspect : callable
        Takes a block, returns for each finding which rows of the block have it.

    Returns
    -------
    dict of Finding to numpy.ndarray
        Rows with each finding, int64, ascending.
    """
    found: defaultdict[Finding, list[IntArray]] = defaultdict(list)
    for start, block in blocks(columns):
        for finding, wrong in inspect(block).items():
            found[finding].append(start + np.flatnonzero(wrong))
    return {finding: np.concatenate(rows) for finding, rows in found.items()}


def text_at(column: h5py.Dataset, rows: IntArray) -> list[str]:
    """Return the text of a few rows; what is not UTF-8 or cannot be printed is shown as escapes."""
    values = (column[int(row)] for row in rows)
    return [printable(value.decode("utf-8", "backslashreplace")) for value in values]


def printable(text: str) -> str:
    """Return a text with control characters, which could steer a terminal, as escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
