"""What a BIOSCAN HDF5 file holds, as tables in the terminal and as a page that opens offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.describe import (
    WHOLE_FILE,
    Description,
    barcode_lengths,
    missing_labels,
    photo_sizes,
    taxon_counts,
)
from projects.bioscan_clip.data_tools.printing import shown, table_of_splits
from projects.bioscan_clip.datasets.hdf5 import PhotoStorage

_TEMPLATE: Final = Path(__file__).with_name("describe.html.j2")
_HEADINGS: Final = {
    "specimens": "specimens",
    "order": "orders",
    "family": "families",
    "genus": "genera",
    "species": "species",
    "BIN": "BINs",
    "with_n": "with an N",
}


def print_description(description: Description, console: Console | None = None) -> None:
    """Print a description: a table for each subject, and how photos are stored."""
    console = console or Console()
    console.print(f"[bold]{shown(str(description.path))}[/], {description.size / 1e9:,.2f} GB\n")
    for title, table in text_tables(description).items():
        console.print(f"[bold]{escape(title)}[/]", _rich(table), sep="\n")
    for sentence in storage_sentences(description.storage, description.path):
        console.print(shown(sentence), soft_wrap=True)


def write_page(description: Description, path: Path) -> None:
    """Write a description as one HTML file of about 5 MB, which needs nothing else.

    Parameters
    ----------
    description : Description
        What to show.
    path : pathlib.Path
        The page; its folder is made if missing.
    """
    from projects.bioscan_clip.data_tools.describe_plots import make_plots
    from projects.bioscan_clip.reports.html import render

    counts = taxon_counts(description).loc[WHOLE_FILE].dropna()
    figures = {words: f"{counts[key]:,.0f}" for key, words in _HEADINGS.items() if key in counts}
    render(
        _TEMPLATE,
        path,
        name=description.path.name,
        path_of_file=str(description.path.resolve()),
        figures=figures | {"GB": f"{description.size / 1e9:,.2f}"},
        storage=storage_sentences(description.storage, description.path),
        expensive=any(kind.is_expensive for kind in description.storage.values()),
        plots=list(make_plots(description)),
        tables=text_tables(description),
    )


def text_tables(description: Description) -> dict[str, pd.DataFrame]:
    """Return the tables of a description, by title, with cells as text."""
    counts = _cells(taxon_counts(description), ",.0f")
    lengths, photos = barcode_lengths(description), photo_sizes(description)
    tables = {
        "Specimens (n), taxa, and how many of the species are seen and unseen": counts.rename(
            columns=_HEADINGS | {"specimens": "n"}
        ),
        "Share of specimens without a label": _cells(missing_labels(description), ".1%"),
    }
    if not lengths.empty:
        cells = _cells(lengths.drop(columns="with_n"), ",.0f")
        cells = cells.join(_cells(lengths[["with_n"]], ".1%"))
        tables["Bases per barcode"] = cells.rename(columns=_HEADINGS)
    if not photos.empty:
        cells = _cells(photos.drop(columns="pixels") / 1e3, ",.1f").join(photos["pixels"])
        tables["Photos: kB per JPEG, and pixels of a sample"] = cells
    return {title: table for title, table in tables.items() if not table.empty}


def storage_sentences(storage: Mapping[str, PhotoStorage], path: Path) -> list[str]:
    """Say how photos are stored, what reading one costs, and what to do if that is much."""
    if not storage:
        return ["The file holds no photos."]
    sentences = []
    for kind in dict.fromkeys(storage.values()):
        splits = [name for name, each in storage.items() if each == kind]
        where = "in every split" if len(splits) == len(storage) else f"in {', '.join(splits)}"
        layout = "rows" if kind.touched_bytes == kind.row_bytes else "chunks"
        sentences.append(
            f"Photos lie in {layout} {where}: reading one of {kind.row_bytes:,} bytes touches "
            f"{kind.touched_bytes:,} bytes."
        )
    if any(kind.is_expensive for kind in storage.values()):
        better = path.with_name(f"{path.stem}-rows{path.suffix}")
        sentences.append(
            f"Training reads much faster after `bioscan-clip data repack {path} --out {better}`."
        )
    return sentences


def _rich(cells: pd.DataFrame) -> Table:
    rows = zip(cells.index, cells.to_numpy().tolist(), strict=True)
    table = table_of_splits(list(cells.columns), rows)
    if WHOLE_FILE in cells.index[1:]:  # the last row, below a line
        table.rows[-2].end_section = True
    return table


def _cells(table: pd.DataFrame, spec: str) -> pd.DataFrame:
    return table.map(lambda value: "" if pd.isna(value) else format(value, spec))
