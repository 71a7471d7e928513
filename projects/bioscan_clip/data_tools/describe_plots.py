"""Plots of what a BIOSCAN HDF5 file holds."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from projects.bioscan_clip.data_tools.describe import (
    LISTED,
    WHOLE_FILE,
    Description,
    distinct_specimens,
    most_frequent,
    role_of,
    species_table,
    taxon_counts,
)
from projects.bioscan_clip.reports.html import NEUTRAL, SEEN, UNSEEN, Plot, style

_COLOURS: Final = {
    "training": "#0072b2",
    "pretraining only": "#0072b2",
    "keys": "#e69f00",
    "seen queries": SEEN,
    "seen": SEEN,
    "unseen queries": UNSEEN,
    "unseen": UNSEEN,
    "other": "#8a949e",
}
_TOP = 12
_BINS = 60


def make_plots(description: Description) -> Iterator[Plot]:
    """Yield the plots for which a file has the data."""
    specimens = distinct_specimens(description)
    if specimens.empty:
        return
    yield _split_sizes(description)
    species = species_table(description)
    if len(species):
        yield _long_tail(species)
    if LISTED[0] in specimens:
        yield _frequent_taxa(description)
    if "bases" in specimens:
        yield _barcode_lengths(specimens["bases"], specimens["has_n"])
    if "jpeg_bytes" in specimens and specimens["jpeg_bytes"].max() > 0:
        yield _photo_sizes(specimens["jpeg_bytes"])


def _split_sizes(description: Description) -> Plot:
    counts = taxon_counts(description)["specimens"].drop(WHOLE_FILE)[::-1]
    roles = pd.Series({split: role_of(split) for split in counts.index})
    figure = go.Figure()
    for role in [role for role in _COLOURS if role in set(roles)]:
        rows = counts[roles == role]
        figure.add_bar(
            x=rows, y=rows.index, orientation="h", name=role, marker_color=_COLOURS[role],
            text=[f"{value:,}" for value in rows], textposition="outside", cliponaxis=False,
        )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=list(counts.index))
    style(figure, "specimens", "", height=130 + 26 * len(counts))
    total, largest = len(distinct_specimens(description)), counts.idxmax()
    sentence = (
        f"{total:,} specimens in {len(counts)} splits; the largest, {largest}, has "
        f"{counts[largest]:,}."
    )
    if counts.sum() > total:
        sentence += " Some are in several splits, so that the bars add up to more."
    return Plot("Specimens per split", figure, sentence)


def _long_tail(species: pd.DataFrame) -> Plot:
    ranked = species.assign(place=np.arange(1, len(species) + 1))
    figure = go.Figure()
    for status in [status for status in _COLOURS if status in set(species["status"])]:
        rows = ranked[ranked["status"] == status]
        figure.add_scatter(
            x=rows["place"], y=rows["specimens"], mode="markers", name=status,
            marker={"color": _COLOURS[status], "size": 7, "opacity": 0.75},
            hovertemplate="species no. %{x:,}: %{y:,} specimens",
        )  # fmt: skip
    style(figure, "species, the most frequent first", "specimens")
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    numbers = species["specimens"]
    tenth = numbers.head(max(1, len(numbers) // 10)).sum() / numbers.sum()
    counts = species["status"].value_counts()
    kinds = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    sentence = (
        f"Each point is one of {len(species):,} species ({kinds}). The most frequent tenth has "
        f"{tenth:.0%} of the specimens with a species name; {(numbers == 1).sum():,} species have "
        "only one."
    )
    return Plot("Specimens per species", figure, sentence)


def _frequent_taxa(description: Description) -> Plot:
    figure = make_subplots(cols=len(LISTED), horizontal_spacing=0.2)
    parts = []
    for position, rank in enumerate(LISTED, start=1):
        taxa = most_frequent(description, rank, _TOP)[::-1]
        if taxa.empty:
            continue
        figure.add_bar(
            x=taxa, y=taxa.index, orientation="h", marker_color=NEUTRAL, showlegend=False,
            hovertemplate="%{y}: %{x:,}<extra></extra>", col=position, row=1,
        )  # fmt: skip
        share = taxa.iloc[-1] / len(distinct_specimens(description))
        parts.append(f"{share:.0%} are of the {rank} {taxa.index[-1]}")
    style(figure, "specimens", "", height=420)
    sentence = f"Of all specimens, {' and '.join(parts)}." if parts else "No specimen is named."
    return Plot("The most frequent orders and families", figure, sentence)


def _barcode_lengths(bases: pd.Series, has_n: pd.Series) -> Plot:
    figure = _histogram(bases, "bases", log=True)
    usual = bases.mode().iloc[0]
    sentence = (
        f"Most often, a barcode has {usual:,} bases: {(bases == usual).mean():.0%} of them. The "
        f"shortest has {bases.min():,}, the longest {bases.max():,} (the count is on a log axis); "
        f"{has_n.mean():.1%} hold an unknown base, N."
    )
    return Plot("Length of barcodes", figure, sentence)


def _photo_sizes(sizes: pd.Series) -> Plot:
    figure = _histogram(sizes[sizes > 0], "kB per JPEG", scale=1e3)
    sentence = (
        f"Half of the JPEGs have less than {sizes.median() / 1e3:.1f} kB; 95% less than "
        f"{sizes.quantile(0.95) / 1e3:.1f} kB, and the largest has {sizes.max() / 1e3:.1f} kB, to "
        "which rows are padded where photos lie in rows."
    )
    return Plot("Size of photos", figure, sentence)


def _histogram(values: pd.Series, unit: str, scale: float = 1, log: bool = False) -> go.Figure:
    """Return a histogram of whole numbers, which is counted here to keep pages small."""
    step = max(1, -(-int(values.max() - values.min() + 1) // _BINS))
    edges = np.arange(values.min(), values.max() + step + 1, step)
    counts, edges = np.histogram(values, edges)
    bars = go.Bar(
        x=edges[:-1] / scale, y=counts, width=step / scale, offset=0, marker_color=NEUTRAL,
        hovertemplate=f"from %{{x:,}} {unit}: %{{y:,}} specimens<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(bars)
    style(figure, unit, "specimens")
    figure.update_layout(bargap=0)
    if log:
        figure.update_yaxes(type="log", dtick=1)
    return figure
