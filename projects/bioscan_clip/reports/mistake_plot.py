"""How wrong mistakes are."""

from typing import Final

import pandas as pd
import plotly.graph_objects as go

from projects.bioscan_clip.reports.plot import Plot, style
from projects.bioscan_clip.reports.wording import MAIN_PAIRS, SPLITS, in_order, pair_name

_MISTAKE = "mistake"
_LEVELS: Final = {
    "species": ("right species", "#0b4f7d", "#ffffff"),
    "genus": ("genus only", "#5b93bd", "#ffffff"),
    "family": ("family only", "#b9cfe0", "#1f2933"),
    "order": ("order only", "#f6cf94", "#1f2933"),
    "none": ("not even the order", "#d55e00", "#ffffff"),
}


def mistake_plot(metrics: pd.DataFrame) -> Plot | None:
    """Plot the lowest rank that prediction and truth share; None where that was not measured.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    """
    rows = metrics[(metrics["average"] == _MISTAKE) & metrics["split"].isin(SPLITS)]
    if rows.empty:
        return None
    shares = rows.pivot_table(index=["query", "key", "split"], columns="level", values="value")
    pairs = in_order(shares.index.droplevel("split"))
    pairs = [pair for pair in pairs if pair in MAIN_PAIRS] or pairs
    bars = [(*pair, split) for pair in pairs for split in SPLITS if (*pair, split) in shares.index]
    labels = [[pair_name((query, key)) for query, key, _ in bars], [split for *_, split in bars]]
    figure = go.Figure()
    for level, (name, colour, ink) in _LEVELS.items():
        values = shares[level].reindex(bars).tolist()
        figure.add_bar(
            x=values, y=labels, orientation="h", name=name, marker_color=colour,
            text=[f"{value:.0%}" for value in values],
            textposition="inside", insidetextanchor="middle", textangle=0,
            textfont={"color": ink}, hovertemplate=f"{name}: %{{x:.1%}}",
        )  # fmt: skip
    style(figure, "share of queries", "", height=130 + 42 * len(bars))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})  # where bars are short
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    ranks_up = zip(bars, shares["mean"].reindex(bars), strict=True)
    means = [f"{mean:.2f} ({bar[2]})" for bar, mean in ranks_up if bar[:2] == pairs[0]]
    sentence = (
        "What the nearest key and the query have in common: the more blue, the milder the "
        "mistakes; orange queries are not even placed in the right order. For "
        f"{pair_name(pairs[0])} one has to go up {' and '.join(means)} ranks on average to find "
        "the common taxon (0: right species; 4: none)."
    )
    return Plot("How wrong mistakes are", figure, sentence)
