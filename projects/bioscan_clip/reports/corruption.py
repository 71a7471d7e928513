"""How accuracy falls with damage to barcodes: a plot and a table of an evaluation's page."""

from typing import Final

import pandas as pd
import plotly.express as px

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.html import COLOURS, Plot, menu_of, style

CORRUPTED: Final = {
    "dna": "as they are",
    "dna_bases_1": "1% false bases",
    "dna_bases_5": "5% false bases",
    "dna_bases_10": "10% false bases",
    "dna_n_runs": "20% N in runs",
    "dna_cut_ends": "ends cut, placed",
    "dna_shifted": "begin elsewhere",
}
"""What query barcodes are, by what names of numbers call them."""


def corruption_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return top-1 micro accuracies of query barcodes as they are, and of damaged ones.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.

    Returns
    -------
    pandas.DataFrame
        Rows of `metrics` with the damage as ``query``, those without damage first; empty if no
        barcode was damaged.
    """
    wanted = metrics["query"].isin(CORRUPTED) & (metrics["key"] == "dna") & (metrics["k"] == 1)
    table = metrics[wanted & (metrics["average"] == "micro")]
    if set(table["query"]) <= {"dna"}:
        return table[:0]
    order = table["query"].map(list(CORRUPTED).index)
    return table.assign(query=table["query"].map(CORRUPTED)).iloc[order.argsort(kind="stable")]


def corruption_plot(metrics: pd.DataFrame) -> Plot | None:
    """Plot what :func:`corruption_table` holds, with a menu of ranks; None where it is empty."""
    table = corruption_table(metrics)
    table = table[table["split"].isin(COLOURS)]
    if table.empty:
        return None
    table = table.assign(
        percent=100 * table["value"],
        above=100 * (table["high"] - table["value"]),
        below=100 * (table["value"] - table["low"]),
    )
    ranks = [rank for rank in reversed(RANKS) if rank in set(table["level"])]
    figure = menu_of(
        {
            rank: px.line(
                table[table["level"] == rank], x="query", y="percent", color="split", markers=True,
                error_y="above", error_y_minus="below", color_discrete_map=COLOURS,
            )
            for rank in ranks
        }
    )  # fmt: skip
    figure.update_traces(marker_size=9, error_y={"thickness": 1, "width": 3})
    figure.update_traces(hovertemplate="%{x}: %{y:.1f}%")
    style(figure, "", "right at top 1, in percent", height=440)
    figure.update_yaxes(range=[-2, 103])
    sentence = (
        "How often a damaged barcode's nearest key barcode, which is as it is in the file, names "
        f"the right {ranks[0]}; the menu has other ranks. Whiskers are 95% intervals."
    )
    return Plot("Damaged barcodes", figure, sentence)


def corruption_rows(metrics: pd.DataFrame, splits: list[str]) -> dict[str, list[str]]:
    """Arrange the table: by damage, percentages by rank and split, empty where there is none."""
    table = corruption_table(metrics)
    return {
        str(damage): [
            "" if pd.isna(value) else f"{100 * value:.1f}"
            for rank in RANKS
            for value in rows.set_index(["level", "split"])["value"].reindex(
                [(rank, split) for split in splits]
            )
        ]
        for damage, rows in table.groupby("query", sort=False)
    }
