"""What a check of a file found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Severity = Literal["error", "warning"]
Subject = Literal["layout", "photos", "labels", "splits", "barcodes", "tokens"]

EXAMPLES: Final = 5
"""How many of the rows or names with a problem are listed."""


@dataclass(frozen=True)
class Problem:
    """A kind of mistake that rows of a file can have.

    Attributes
    ----------
    subject : str
        What was checked.
    severity : {"error", "warning"}
        An error spoils training or scores, or stops them; a warning is for a person to judge.
    message : str
        What is wrong with the rows.
    remedy : str
        What to do about it.
    """

    subject: Subject
    severity: Severity
    message: str
    remedy: str

    def at(
        self, split: str, rows: npt.NDArray[np.int64], names: Sequence[str] = ()
    ) -> "list[Finding]":
        """Return one finding for all `rows`, int64, ascending; none if there are no rows.

        Of `names`, a few are kept.
        """
        if len(rows) == 0:
            return []
        first = tuple(rows[:EXAMPLES].tolist())
        shown = tuple(names[:EXAMPLES])
        return [
            Finding(
                self.subject,
                self.severity,
                self.message,
                self.remedy,
                split,
                len(rows),
                first,
                shown,
            )
        ]


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file, and where.

    Attributes
    ----------
    subject : str
        What was checked.
    severity : {"error", "warning"}
        See :class:`Problem`.
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
