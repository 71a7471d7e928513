"""The plots and tables of an evaluation, and what features and pairs are called there."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.express as px

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.corruption import CORRUPTED
from projects.bioscan_clip.reports.html import (
    COLOURS,
    NEUTRAL,
    SEEN,
    UNSEEN,
    Plot,
    menu_of,
    style,
)
from projects.bioscan_clip.scoring.confidence import Trust
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import PAIRS, Match
from projects.bioscan_clip.scoring.reliability import coverage_curve, reliability

FEATURES: Final = {
    "rgb": "photo",
    "dna": "barcode",
    "text": "name",
    "averaged": "both, mean",
    "concatenated": "both, joined",
    "all": "any",
    "is_du": "photo or barcode (IS+DU)",
    "linear_du": "linear head or barcode",
    "linear_fused": "linear head or both",
    **{name: f"barcode, {words}" for name, words in CORRUPTED.items() if name != "dna"},
}
NOTHING: Final = "none"
"""What a query and a key share if not even the order."""

_SHARED: Final = {
    "species": ("right species", "#0b4f7d"),
    "genus": ("genus only", "#5b93bd"),
    "family": ("family only", "#b9cfe0"),
    "order": ("order only", "#f6cf94"),
    NOTHING: ("not even the order", "#d55e00"),
}
"""Name and colour of the lowest rank that a query and its nearest key share."""

_SERIES: Final = {
    "seen, micro": {"color": SEEN, "symbol": "circle", "dash": "solid", "shift": -0.075},
    "seen, macro": {"color": SEEN, "symbol": "circle-open", "dash": "dot", "shift": -0.025},
    "unseen, micro": {"color": UNSEEN, "symbol": "diamond", "dash": "solid", "shift": 0.025},
    "unseen, macro": {"color": UNSEEN, "symbol": "diamond-open", "dash": "dot", "shift": 0.075},
}
"""Looks of lines of accuracy; shifted so that whiskers stand side by side."""

_EDGES = 2.0 ** np.arange(0, 25) - 0.5  # 1, 2-3, 4-7, 8-15, ... keys
_TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
_NAMED = 3
_RANK_COLOURS = dict(zip(RANKS, ("#0072b2", "#e69f00", "#009e73", "#d55e00"), strict=True))
_CONFUSED = 12

Pair = tuple[str, str]


def pair_name(pair: Pair) -> str:
    """Return for instance "photo → barcode"."""
    return " → ".join(FEATURES[feature] for feature in pair)


def in_order(pairs: Iterable[Pair]) -> list[Pair]:
    """Return distinct pairs, those that papers report first, then as `FEATURES` has them."""
    order = [*PAIRS, *product(FEATURES, FEATURES)]
    return sorted(set(pairs), key=order.index)


def accuracy_plot(metrics: pd.DataFrame) -> Plot | None:
    """Plot top-1 accuracy by rank, with a menu of all pairs; None where there is no number.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    """
    table = metrics[metrics["k"] == 1].copy()
    table["series"] = table["split"] + ", " + table["average"]
    table = table[table["series"].isin(_SERIES)]
    if table.empty:
        return None
    places, shifts = table["level"].map(RANKS.index), table["series"].map(_look("shift"))
    table = table.assign(
        place=places + shifts,
        percent=100 * table["value"],
        above=100 * (table["high"] - table["value"]),
        below=100 * (table["value"] - table["low"]),
    ).sort_values("place")
    lines = {
        pair_name(pair): px.line(
            table[(table["query"] == pair[0]) & (table["key"] == pair[1])],
            x="place", y="percent", error_y="above", error_y_minus="below", markers=True,
            color="series", color_discrete_map=_look("color"),
            line_dash="series", line_dash_map=_look("dash"),
            symbol="series", symbol_map=_look("symbol"),
            category_orders={"series": list(_SERIES)}, hover_name="level",
        )
        for pair in in_order(zip(table["query"], table["key"], strict=True))
    }  # fmt: skip
    figure = menu_of(lines)
    figure.update_traces(marker_size=9, error_y={"thickness": 1, "width": 3})
    figure.update_traces(hovertemplate="%{hovertext}: %{y:.1f}%")
    style(figure, "", "right at top 1, in percent", height=460)
    figure.update_xaxes(tickvals=list(range(len(RANKS))), ticktext=list(RANKS))
    figure.update_yaxes(range=[-2, 103])
    sentence = (
        "How often the nearest key names the right taxon, from order down to species; the menu "
        "has every pair of what is looked up → what it is compared with (both: photo and barcode "
        "of a specimen together). Solid lines are averages over specimens (micro), dotted ones "
        "over taxa (macro); whiskers are 95% intervals."
    )
    return Plot("Accuracy from order to species", figure, sentence)


def _look(what: str) -> dict[str, Any]:
    return {series: look[what] for series, look in _SERIES.items()}


def mistake_plot(metrics: pd.DataFrame) -> Plot | None:
    """Plot the lowest rank that prediction and truth share; None where that was not measured.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    """
    table = metrics[(metrics["average"] == "mistake") & metrics["split"].isin(COLOURS)]
    pairs = in_order(zip(table["query"], table["key"], strict=True))
    pairs = [pair for pair in pairs if pair in PAIRS] or pairs
    if not pairs:
        return None
    shares = table.set_index(["query", "key", "split", "level"])["value"].unstack()
    bars = [(*pair, split) for pair in pairs for split in COLOURS if (*pair, split) in shares.index]
    shares = shares.loc[bars]
    named = shares[list(_SHARED)].set_axis([name for name, _ in _SHARED.values()], axis=1)
    figure = px.bar(
        named.reset_index(drop=True), orientation="h", text_auto=".0%",
        color_discrete_map=dict(_SHARED.values()),
    )  # fmt: skip
    names = [pair_name((query, key)).replace("→", "→<br>") for query, key, _ in bars]
    labels = [names, [split for *_, split in bars]]
    figure.update_traces(y=labels, insidetextanchor="middle", textangle=0, hovertemplate="%{x:.1%}")
    style(figure, "share of queries", "", height=130 + 42 * len(bars))
    figure.update_layout(legend={"traceorder": "normal"}, barmode="stack")
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})  # where bars are short
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed")
    means = [f"{shares['mean'][bar]:.2f} ({bar[2]})" for bar in bars if bar[:2] == pairs[0]]
    sentence = (
        "What the nearest key and the query have in common: the more blue, the milder the "
        "mistakes; orange queries are not even placed in the right order. For "
        f"{pair_name(pairs[0])} one has to go up {' and '.join(means)} ranks on average to find "
        "the common taxon (0: right species; 4: none)."
    )
    return Plot("How wrong mistakes are", figure, sentence)


def similarity_plot(evaluation: Evaluation) -> Plot | None:
    """Plot the distributions of similarities to the nearest key; None where there is no query."""
    found: dict[str, dict[str, Any]] = {}
    for pair in in_order((match.query, match.key) for match in evaluation.neighbours):
        for split in COLOURS:
            near = evaluation.neighbours.get(Match(*pair, split))
            if near is not None and len(near.similarities):
                nearest = near.similarities[:, 0].float().cpu().numpy()
                found.setdefault(pair_name(pair), {})[split] = nearest
    if not found:
        return None
    figure = menu_of({pair: _distributions(values) for pair, values in found.items()})
    style(figure, "cosine similarity to the nearest key", "share of queries", height=420)
    figure.update_traces(fill="tozeroy", hovertemplate="around %{x:.3f}: %{y:.1%} of queries")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    first, values = next(iter(found.items()))
    medians = ", ".join(f"{np.median(each):.3f} ({split})" for split, each in values.items())
    sentence = (
        "How close queries come to their nearest key. The less the two overlap, the better a "
        "threshold on similarity tells queries of unseen species from those of seen ones. "
        f"Median for {first}: {medians}."
    )
    return Plot("Similarity to the nearest key", figure, sentence)


def _distributions(values: dict[str, Any]) -> Any:
    together = np.concatenate(list(values.values()))
    bins = int(np.clip(2 * len(together) ** 0.5, 10, 60))
    # Widened, so that equal values have a bin of some width too.
    edges = np.linspace(together.min() - 1e-3, together.max() + 1e-3, bins + 1)
    shares = {split: np.histogram(each, edges)[0] / len(each) for split, each in values.items()}
    table = pd.DataFrame(shares, index=(edges[:-1] + edges[1:]) / 2)
    return px.line(table, line_shape="hvh", color_discrete_map=COLOURS)


def reliability_plot(trust: Mapping[Pair, Trust]) -> Plot | None:
    """Plot accuracy by confidence at each rank; None where nothing is calibrated."""
    if not trust:
        return None
    figure = menu_of({pair_name(pair): _by_rank(each, reliability) for pair, each in trust.items()})
    style(figure, "confidence of a name", "share of right names", height=460)
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"dash": "dot", "color": NEUTRAL})
    figure.update_traces(hovertemplate="confidence %{x:.1%}: %{y:.1%} right (%{customdata[0]:,})")
    figure.update_xaxes(tickformat=".0%", range=[-0.02, 1.02])
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02])
    sentence = (
        "Whether a confidence can be believed: of names with 80% confidence, 80% should be right "
        "(the dotted line). Confidence is calibrated on the validation queries; half of the "
        "queries, of whole species, are named by keys that lack their species."
    )
    return Plot("Can confidences be believed?", figure, sentence)


def coverage_plot(trust: Mapping[Pair, Trust]) -> Plot | None:
    """Plot accuracy against the share of answers accepted; None where nothing is calibrated."""
    if not trust:
        return None
    figure = menu_of(
        {pair_name(pair): _by_rank(each, coverage_curve) for pair, each in trust.items()}
    )
    style(figure, "share of queries that are named", "share of right names", height=460)
    figure.update_traces(hovertemplate="%{x:.0%} named: %{y:.1%} right", mode="lines")
    figure.update_xaxes(tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02])
    sentence = (
        "How accuracy falls as more names are accepted, the most confident ones first. The queries "
        "are those of the plot above."
    )
    return Plot("Accuracy against coverage", figure, sentence)


def _by_rank(trust: Trust, curve: Callable[[Any, Any], pd.DataFrame]) -> Any:
    """Return a line for each rank of which some query has a known name."""
    tables = []
    for place, rank in enumerate(RANKS):
        known = trust.known(place)
        if known.any():
            table = curve(trust.answers.confidence[known, place], trust.right(place)[known])
            tables.append(table.assign(rank=rank))
    table = pd.concat(tables)
    x, counts = ("confidence", ["n"]) if "confidence" in table else ("coverage", None)
    return px.line(
        table, x=x, y="accuracy", color="rank", color_discrete_map=_RANK_COLOURS,
        custom_data=counts, markers=True,
    )  # fmt: skip


def class_accuracy(nearest: pd.DataFrame, keys: pd.DataFrame, rank: str) -> pd.DataFrame:
    """Return the accuracy of each taxon of the queries, beside its number of keys.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.predictions.predictions`.
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
    right = known[f"true_{rank}"].eq(known[f"predicted_{rank}"]).fillna(False).astype(bool)
    groups = right.groupby([known["split"], known[f"true_{rank}"].astype(object)])
    table = groups.agg(["size", "mean"]).set_axis(["queries", "right"], axis=1)
    table = table.rename_axis(["split", "taxon"]).reset_index()
    counts = table["taxon"].map(keys[rank].astype(object).value_counts())
    return table.assign(keys=counts.fillna(0).astype(int))


def class_plot(nearest: pd.DataFrame, keys: pd.DataFrame) -> Plot | None:
    """Plot per-class accuracy against class size; None where no query's taxon has a key.

    Parameters
    ----------
    nearest, keys : pandas.DataFrame
        See :func:`class_accuracy`.
    """
    tables = {rank: class_accuracy(nearest, keys, rank) for rank in reversed(RANKS)}
    known = {rank: table[table["keys"] > 0] for rank, table in tables.items()}
    known = {rank: table for rank, table in known.items() if len(table)}
    if not known:
        return None
    figure = menu_of({rank: _marks_and_means(table) for rank, table in known.items()})
    style(figure, "keys of the taxon", "right at top 1, in percent", height=460)
    figure.update_xaxes(type="log", tickvals=_TICKS)
    figure.update_yaxes(range=[-4, 104])
    figure.update_layout(legend={"itemsizing": "constant"})
    rank, table = next(iter(known.items()))
    lacking = len(tables[rank]) - len(table)
    few, never = table["keys"] <= 3, table["right"] == 0
    sentence = (
        "Each mark is a taxon: how many keys it has, and how many of its queries are named "
        "rightly; a larger mark is several taxa at one place. Lines join the means of taxa with "
        f"1, 2 to 3, 4 to 7, 8 to 15 … keys. Of {len(table):,} taxa of the rank {rank} that have "
        f"keys, {never.sum():,} are never named rightly; those with at most 3 keys "
        f"({few.sum():,}) reach {_percent(table['right'][few])}, the others "
        f"{_percent(table['right'][~few])}."
    )
    if lacking:
        sentence += f" {lacking:,} more have no key, so that nothing can be named after them."
    return Plot("Accuracy of each taxon, against its number of keys", figure, sentence)


def _marks_and_means(table: pd.DataFrame) -> Any:
    """Return a figure of taxa, with lines through the means of taxa of similar size."""
    sizes = np.digitize(table["keys"], _EDGES)
    table = table.assign(percent=100 * table["right"], size_class=sizes)
    marks = table.groupby(["split", "keys", "percent"], as_index=False).agg(
        taxa=("taxon", "size"), names=("taxon", _some_names)
    )
    means = table.groupby(["split", "size_class"], as_index=False)[["keys", "percent"]].mean()
    figure = px.scatter(
        marks, x="keys", y="percent", color="split", color_discrete_map=COLOURS, symbol="split",
        size="taxa", size_max=8 * min(marks["taxa"].max() ** 0.5, 5), hover_name="names",
        opacity=0.6,
    )  # fmt: skip
    lines = px.line(means, x="keys", y="percent", color="split", color_discrete_map=COLOURS)
    hovered = "%{hovertext}<br>%{x:,} keys, %{y:.0f}% right"
    figure.update_traces(cliponaxis=False, hovertemplate=hovered)
    lines.for_each_trace(lambda line: line.update(name=f"{line.name}, mean", hoverinfo="skip"))
    return figure.add_traces(lines.data)


def _some_names(taxa: pd.Series) -> str:
    names = ", ".join(escape(taxon) for taxon in taxa[:_NAMED])
    return names if len(taxa) <= _NAMED else f"{names} and {len(taxa) - _NAMED:,} more"


def _percent(shares: pd.Series) -> str:
    return f"{shares.mean():.0%} on average" if len(shares) else "no number (there are none)"


def shared_rank(names: pd.DataFrame) -> pd.Series:
    """Return the lowest rank at which names agree, or `NOTHING`.

    Parameters
    ----------
    names : pandas.DataFrame
        Columns ``true_{rank}`` and ``predicted_{rank}``; NA agrees with nothing.

    Returns
    -------
    pandas.Series
        Strings, row by row.
    """
    shared = pd.Series(NOTHING, index=names.index, dtype=object)
    for rank in RANKS:
        agrees = names[f"true_{rank}"].eq(names[f"predicted_{rank}"])
        shared[agrees.fillna(False).astype(bool)] = rank
    return shared


def confused_taxa(nearest: pd.DataFrame, rank: str, shown: int = _CONFUSED) -> pd.DataFrame:
    """Count mistakes by true and predicted taxon.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.predictions.predictions`.
    rank : str
        One of ``RANKS``.
    shown : int, default=12
        Number of pairs to return.

    Returns
    -------
    pandas.DataFrame
        The most frequent pairs of taxa: ``split``, ``truth``, ``prediction``, ``times``, ``of``
        (queries of the true taxon) and ``shared`` (lowest rank that the two have in common, as
        most of these queries and keys say). Queries or keys without a name at the rank do not
        count.
    """
    known = pd.DataFrame(
        {
            "split": nearest["split"],
            "truth": nearest[f"true_{rank}"].astype(object),
            "prediction": nearest[f"predicted_{rank}"].astype(object),
            "shared": shared_rank(nearest),
        }
    ).dropna(subset="truth")
    known["of"] = known.groupby(["split", "truth"])["truth"].transform("size")
    wrong = known.dropna()[lambda rows: rows["truth"] != rows["prediction"]]
    groups = wrong.groupby(["split", "truth", "prediction"])
    table = groups.agg(
        times=("of", "size"), of=("of", "first"), shared=("shared", lambda each: each.mode()[0])
    ).reset_index()
    by_size = ["times", "of", "truth", "prediction"]
    table = table.sort_values(by_size, ascending=[False, True, True, True])
    return table.head(shown).reset_index(drop=True)
