"""What a BIOSCAN HDF5 file holds, as tables in the terminal."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.data_tools.describe import Description
from projects.bioscan_clip.data_tools.describe_summary import (
    WHOLE_FILE,
    barcode_lengths,
    missing_labels,
    photo_sizes,
    taxon_counts,
)
from projects.bioscan_clip.datasets.hdf5 import PhotoStorage


def print_description(description: Description, console: Console | None = None) -> None:
    """Print a description: a table for each subject, and how photos are stored."""
    console = console or Console()
    console.print(f"[bold]{escape(str(description.path))}[/], {description.size / 1e9:,.2f} GB\n")
    for title, table in text_tables(description).items():
        console.print(f"[bold]{escape(title)}[/]", _rich(table), sep="\n")
    for sentence in storage_sentences(description.storage, description.path):
        console.print(escape(sentence), soft_wrap=True)


def text_tables(description: Description) -> dict[str, pd.DataFrame]:
    """Return the tables of a description, by title, with cells as text."""
    headings = {"specimens": "n", "order": "orders", "family": "families", "genus": "genera"}
    headings |= {"BIN": "BINs", "with_n": "with an N"}
    lengths, photos = barcode_lengths(description), photo_sizes(description)
    tables = {
        "Specimens (n), taxa, and how many of the species are seen and unseen": _whole(
            taxon_counts(description)
        ).rename(columns=headings),
        "Share of specimens without a label": _percent(missing_labels(description)),
    }
    if not lengths.empty:
        cells = _whole(lengths.drop(columns="with_n")).join(_percent(lengths[["with_n"]]))
        tables["Bases per barcode"] = cells.rename(columns=headings)
    if not photos.empty:
        kilobytes = (photos.drop(columns="pixels") / 1e3).map(_text, spec=",.1f")
        tables["Photos: kB per JPEG, and pixels of a sample"] = kilobytes.join(photos["pixels"])
    return {title: table for title, table in tables.items() if not table.empty}


def storage_sentences(storage: Mapping[str, PhotoStorage], path: Path) -> list[str]:
    """Say how photos are stored, what reading one costs, and what to do if that is much."""
    if not storage:
        return ["The file holds no photos."]
    sentences = []
    for kind in dict.fromkeys(storage.values()):
        splits = [name for name, each in storage.items() if each == kind]
        where = "in every split" if len(splits) == len(storage) else f"in {', '.join(splits)}"
        if kind.touched_bytes == kind.row_bytes:
            sentences.append(
                f"Photos lie in rows of {kind.row_bytes:,} bytes {where}: "
                "reading one touches no other."
            )
        else:
            sentences.append(
                f"Photos lie in chunks {where}: reading one of {kind.row_bytes:,} bytes touches "
                f"{kind.touched_bytes:,} bytes."
            )
    if any(kind.is_expensive for kind in storage.values()):
        better = path.with_name(f"{path.stem}-rows{path.suffix}")
        sentences.append(
            f"Training reads much faster after `bioscan-clip data repack {path} --out {better}`."
        )
    return sentences


def _rich(cells: pd.DataFrame) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("split", no_wrap=True)
    for column in cells.columns:
        table.add_column(column, justify="right")
    for split, row in zip(cells.index, cells.to_numpy().tolist(), strict=True):
        if split == WHOLE_FILE:
            table.add_section()
        table.add_row(escape(split), *row)
    return table


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(_text, spec=",.0f")


def _percent(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(_text, spec=".1%")


def _text(value: float, spec: str) -> str:
    return "" if pd.isna(value) else format(value, spec)
