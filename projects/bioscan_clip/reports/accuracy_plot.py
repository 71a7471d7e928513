"""Accuracy from order to species."""

import pandas as pd
import plotly.graph_objects as go

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.menu import menu
from projects.bioscan_clip.reports.plot import Plot, style
from projects.bioscan_clip.reports.wording import SPLITS, SYMBOLS, Pair, in_order, pair_name

_DASHES = {"micro": "solid", "macro": "dot"}


def accuracy_plot(metrics: pd.DataFrame) -> Plot | None:
    """Plot top-1 accuracy by rank, with a menu of all pairs; None where there is no number.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    """
    shown = metrics[
        (metrics["k"] == 1) & metrics["average"].isin(_DASHES) & metrics["split"].isin(SPLITS)
    ]
    if shown.empty:
        return None
    series = [
        (split, average)
        for split in SPLITS
        for average in _DASHES
        if ((shown["split"] == split) & (shown["average"] == average)).any()
    ]
    pairs = in_order(zip(shown["query"], shown["key"], strict=True))
    figure = go.Figure()
    for place, (split, average) in enumerate(series):
        offset = 0.05 * (place - (len(series) - 1) / 2)
        figure.add_scatter(
            x=[position + offset for position in range(len(RANKS))],
            name=f"{split}, {average}", mode="lines+markers",
            line={"color": SPLITS[split], "dash": _DASHES[average], "width": 2},
            marker={"symbol": SYMBOLS[split] + ("-open" if average == "macro" else ""), "size": 9},
            error_y={"type": "data", "symmetric": False, "thickness": 1.2, "width": 3},
            customdata=RANKS, hovertemplate="%{customdata}: %{y:.1f}%",
        )  # fmt: skip
    states = {pair_name(pair): _numbers(shown, pair, series) for pair in pairs}
    first = next(iter(states.values()))
    for trace, y, above, below in zip(
        figure.data, first["y"], first["error_y.array"], first["error_y.arrayminus"], strict=True
    ):
        trace.update(y=y, error_y={"array": above, "arrayminus": below})
    style(figure, "", "right at top 1, in percent", height=460)
    figure.update_xaxes(tickvals=list(range(len(RANKS))), ticktext=list(RANKS))
    figure.update_yaxes(range=[-2, 103])
    menu(figure, [("restyle", name, [state]) for name, state in states.items()])
    sentence = (
        "How often the nearest key names the right taxon, from order down to species; the menu "
        "has every pair of what is looked up → what it is compared with (both: photo and barcode "
        "of a specimen together). Solid lines are averages over specimens (micro), dotted ones "
        "over taxa (macro); whiskers are 95% intervals."
    )
    return Plot("Accuracy from order to species", figure, sentence)


def _numbers(
    shown: pd.DataFrame, pair: Pair, series: list[tuple[str, str]]
) -> dict[str, list[list[float | None]]]:
    """Return one pair's values and whiskers of every series, in percent."""
    rows = shown[(shown["query"] == pair[0]) & (shown["key"] == pair[1])]
    table = 100 * rows.set_index(["split", "average", "level"])[["value", "low", "high"]]
    state: dict[str, list[list[float | None]]] = {
        "y": [], "error_y.array": [], "error_y.arrayminus": [],
    }  # fmt: skip
    for split, average in series:
        wanted = pd.MultiIndex.from_tuples([(split, average, rank) for rank in RANKS])
        numbers = table.reindex(wanted)
        above, below = numbers["high"] - numbers["value"], numbers["value"] - numbers["low"]
        for name, values in zip(state, (numbers["value"], above, below), strict=True):
            state[name].append([None if pd.isna(value) else round(value, 3) for value in values])
    return state
