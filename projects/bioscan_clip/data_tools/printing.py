"""What commands print of the splits of a file."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.checks.finding import printable


def table_of_splits(headings: Sequence[str], rows: Iterable[tuple[str, Iterable[str]]]) -> Table:
    """Return a table with a row for each split: its name, and cells, which may hold markup."""
    table = Table("split", box=SIMPLE_HEAD, padding=0)
    table.columns[0].no_wrap = True
    for heading in headings:
        table.add_column(heading, justify="right")
    for split, cells in rows:
        table.add_row(shown(split), *cells)
    return table


def shown(text: str) -> str:
    """Return a text from a file, which neither steers the terminal nor is taken for markup."""
    return escape(printable(text))
