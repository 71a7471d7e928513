"""A table of results as text: in the terminal, as Markdown, LaTeX or CSV."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pandas as pd
from rich.box import HORIZONTALS
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tabulate import LATEX_ESCAPE_RULES

from projects.bioscan_clip.files import write_whole

Format = Literal["rich", "markdown", "latex", "csv"]

_LATEX = str.maketrans(LATEX_ESCAPE_RULES | {"±": r"$\pm$"})
_LATEX_TABLE: Final = r"""\begin{table}
\centering
\caption{%s}
\footnotesize
%s\par\smallskip\raggedright
%s\end{table}
"""  # of the package booktabs, and so small that it fits between the margins of an article
_MARKDOWN = re.compile(r"(https://[\w./-]+)|([\\`*_{}\[\]<>#|~&!])")


@dataclass(frozen=True)
class TextTable:
    """A table, and what a reader must know of it.

    Attributes
    ----------
    title : str
        What it shows.
    cells : pandas.DataFrame
        Text. The first column begins a group of rows, whose first is our own, or is empty; the
        second says whose figures they are; all others are figures.
    lines : sequence of str
        Notes and sources, to stand below.
    tidy : pandas.DataFrame
        The same numbers, unrounded, one per row: what CSV holds, without notes.
    """

    title: str
    cells: pd.DataFrame
    lines: Sequence[str]
    tidy: pd.DataFrame

    def show(self, form: Format, out: Path | None = None) -> None:
        """Print the table, and write it to a file if one is named, which then has the form."""
        if out is not None or form == "rich":
            self.print(Console())
        else:
            print(self.render(form), end="")
        if out is not None:
            write_whole(out, lambda path: path.write_text(self.render(form), "utf-8"))
            print(f"Wrote {out}")

    def print(self, console: Console) -> None:
        """Print the table and what stands below."""
        console.print(self._rich())
        self.print_lines(console)

    def print_lines(self, console: Console) -> None:
        """Print what stands below."""
        for line in self.lines:
            console.print(escape(line), highlight=False)

    def render(self, form: Format) -> str:
        """Return the table as text that ends in a line break."""
        if form == "markdown":
            return self._markdown()
        if form == "latex":
            return self._latex()
        if form == "csv":
            return self.tidy.to_csv(index=False)
        text = io.StringIO()
        self.print(Console(file=text, width=100))
        return text.getvalue()

    def _rich(self) -> Table:
        # Narrow enough for 80 columns.
        table = Table(title=self.title, title_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
        names, figures = self.cells.columns[:2], self.cells.columns[2:]
        for heading in names:
            table.add_column(heading, no_wrap=True)
        for heading in figures:
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        is_grouped = not self.cells.iloc[:, 0].all()
        for row in self.cells.itertuples(index=False):
            if row[0] and is_grouped:
                table.add_section()
            table.add_row(*row, style="bold" if row[0] else None)
        return table

    def _markdown(self) -> str:
        figures = self.cells.shape[1] - 2
        table = self.cells.to_markdown(
            index=False, disable_numparse=True, colalign=["left"] * 2 + ["right"] * figures
        )
        lines = [_MARKDOWN.sub(_escaped, line) for line in self.lines]
        return "\n- ".join([f"**{self.title}**\n\n{table}\n", *lines]) + "\n"

    def _latex(self) -> str:
        figures = "r" * (self.cells.shape[1] - 2)
        table = self.cells.to_latex(index=False, escape=True, column_format=f"ll{figures}")
        for group in filter(None, self.cells.iloc[1:, 0]):
            table = table.replace(f"\n{group} &", f"\n\\midrule\n{group} &")
        table = table.replace("±", r"$\pm$").replace("(-", "($-$")
        title, *lines = (line.translate(_LATEX) for line in (self.title, *self.lines))
        return _LATEX_TABLE % (title, table, "".join(rf"{line}\par" + "\n" for line in lines))


def _escaped(found: re.Match[str]) -> str:
    return found[1] or "\\" + found[2]  # addresses stay links
