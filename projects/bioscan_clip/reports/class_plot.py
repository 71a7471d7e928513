"""Accuracy of single taxa, against their number of keys."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.menu import Choice, menu, show_only
from projects.bioscan_clip.reports.plot import Plot, style
from projects.bioscan_clip.reports.wording import SPLITS, SYMBOLS, Pair, pair_name

_EDGES = 2.0 ** np.arange(0, 25) - 0.5  # 1, 2-3, 4-7, 8-15, ... keys
_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
_NAMED = 3


def class_accuracy(nearest: pd.DataFrame, keys: pd.DataFrame, rank: str) -> pd.DataFrame:
    """Return the accuracy of each taxon of the queries, beside its number of keys.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.nearest.nearest_names`.
    keys : pandas.DataFrame
        Names of the keys.
    rank : str
        One of ``RANKS``.

    Returns
    -------
    pandas.DataFrame
        ``split``, ``taxon``, ``queries``, ``right`` (share) and ``keys``.
    """
    known = nearest[nearest[f"true_{rank}"].notna()]
    right = (known[f"true_{rank}"] == known[f"found_{rank}"]).fillna(False).astype(bool)
    groups = right.groupby([known["split"], known[f"true_{rank}"].astype(object)], sort=True)
    table = groups.agg(["size", "mean"]).set_axis(["queries", "right"], axis=1)
    table = table.rename_axis(["split", "taxon"]).reset_index()
    counts = table["taxon"].map(keys[rank].astype(object).value_counts())
    return table.assign(keys=counts.fillna(0).astype(int))


def class_plot(nearest: pd.DataFrame, keys: pd.DataFrame, pair: Pair) -> Plot | None:
    """Plot per-class accuracy against class size; None where no query has a known taxon.

    Parameters
    ----------
    nearest, keys : pandas.DataFrame
        See :func:`class_accuracy`.
    pair : tuple of str
        Which features `nearest` is of.
    """
    figure = go.Figure()
    traces: dict[str, list[int]] = {}
    tables = {rank: class_accuracy(nearest, keys, rank) for rank in reversed(RANKS)}
    tables = {rank: table for rank, table in tables.items() if len(table)}
    for rank, table in tables.items():
        for split in [split for split in SPLITS if (table["split"] == split).any()]:
            _add(figure, table[table["split"] == split], split, visible=rank == next(iter(tables)))
            count = len(figure.data)
            traces.setdefault(rank, []).extend([count - 2, count - 1])
    if not traces:
        return None
    style(figure, "keys of the taxon", "right at top 1, in percent", height=460)
    figure.update_xaxes(type="log", tickvals=_TICKS)
    figure.update_yaxes(range=[-4, 104])
    figure.update_layout(legend={"itemsizing": "constant"})
    count = len(figure.data)
    choices: list[Choice] = [
        ("update", rank, [show_only(count, shown)]) for rank, shown in traces.items()
    ]
    menu(figure, choices)
    rank, table = next(iter(tables.items()))
    few, never = (table["keys"] <= 3), (table["right"] == 0)
    sentence = (
        f"Each mark is a taxon ({pair_name(pair)}): how many keys it has, and how many of its "
        "queries are named rightly; a larger mark is several taxa at one place. Lines "
        "join the means of taxa with 1, 2 to 3, 4 to 7, 8 to 15 … keys. Of "
        f"{len(table):,} taxa of the rank {rank}, {never.sum():,} are "
        f"never named rightly; those with at most 3 keys ({few.sum():,}) reach "
        f"{_percent(table['right'][few])}, the others {_percent(table['right'][~few])}."
    )
    return Plot("Accuracy of each taxon, against its number of keys", figure, sentence)


def _add(figure: go.Figure, table: pd.DataFrame, split: str, visible: bool) -> None:
    """Add a split's taxa, and the line through the means of taxa of similar size."""
    known = table[table["keys"] > 0]
    marks = known.groupby(["keys", "right"])["taxon"].agg(["size", _some_names]).reset_index()
    figure.add_scatter(
        x=marks["keys"].to_numpy(), y=100 * marks["right"].to_numpy(), mode="markers", name=split,
        marker={
            "color": SPLITS[split], "symbol": SYMBOLS[split], "opacity": 0.6,
            "size": (7 + 2 * np.log2(marks["size"])).to_numpy(),
        },
        text=marks["_some_names"].tolist(), visible=visible, cliponaxis=False,
        hovertemplate="%{text}<br>%{x:,} keys, %{y:.0f}% right",
    )  # fmt: skip
    means = known.groupby(np.digitize(known["keys"], _EDGES)).agg({"keys": "mean", "right": "mean"})
    figure.add_scatter(
        x=means["keys"].to_numpy(), y=100 * means["right"].to_numpy(), mode="lines",
        name=f"{split}, mean", line={"color": SPLITS[split], "width": 3}, hoverinfo="skip",
        visible=visible,
    )  # fmt: skip


def _some_names(taxa: pd.Series) -> str:
    names = ", ".join(escape(taxon) for taxon in taxa[:_NAMED])
    return names if len(taxa) <= _NAMED else f"{names} and {len(taxa) - _NAMED:,} more"


def _percent(shares: pd.Series) -> str:
    return f"{shares.mean():.0%} on average" if len(shares) else "no number (there are none)"
