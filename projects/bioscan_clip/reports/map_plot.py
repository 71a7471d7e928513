"""Embeddings on a plane: how orders part, and how photos and barcodes meet."""

from collections.abc import Collection
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import torch
from torch.nn import functional as F

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.menu import menu, show_only
from projects.bioscan_clip.reports.plot import Plot, style
from projects.bioscan_clip.reports.wording import FEATURES
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.specimens import Specimens

POINTS: Final = 5000
FEWEST: Final = 30
"""Points below which a map tells nothing."""

_OF_EACH_ORDER = 25
_SEED = 0
_ORDERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f6bb3")
_OTHER = "#9aa5b1"
_UNKNOWN = "unknown"
_MODALITIES = {
    "rgb": ("#0072b2", "circle"),
    "dna": ("#e69f00", "diamond"),
    "text": ("#009e73", "x"),
}

Rows = npt.NDArray[np.int64]


def choose_rows(orders: pd.Series, count: int, seed: int = _SEED) -> Rows:
    """Choose specimens at random, but some of every order.

    Parameters
    ----------
    orders : pandas.Series
        Name of each specimen's order.
    count : int
        How many to choose.
    seed : int, default=0
        Seed of the choice.

    Returns
    -------
    numpy.ndarray
        int64, ascending positions; all if there are no more than `count`.
    """
    shuffled = np.random.default_rng(seed).permutation(len(orders))
    place_in_order = orders.iloc[shuffled].groupby(orders.iloc[shuffled], dropna=False).cumcount()
    is_later = (place_in_order >= _OF_EACH_ORDER).to_numpy()
    return np.sort(shuffled[np.argsort(is_later, kind="stable")][:count])


def map_plot(evaluation: Evaluation) -> Plot | None:
    """Draw keys and queries on a plane by PaCMAP; None if there are too few.

    Parameters
    ----------
    evaluation : Evaluation
        What was embedded. Modalities whose dimension is not the first one's are left out.
    """
    sets = {"keys": evaluation.keys} | dict(evaluation.queries)
    modalities = _comparable(sets.values())
    table = pd.concat([each.names for each in sets.values()], ignore_index=True)
    orders = table["order"].astype(object).where(table["order"].notna(), _UNKNOWN)
    if not modalities or len(table) * len(modalities) < FEWEST:
        return None
    # PaCMAP compiles itself when imported, for which a page without a map should not wait.
    from projects.bioscan_clip.reports.plane import flatten

    chosen = choose_rows(orders, POINTS // len(modalities))
    vectors = torch.cat([_vectors(sets.values(), name, chosen) for name in modalities])
    points = pd.DataFrame(flatten(vectors.numpy(), _SEED), columns=["x", "y"])
    points["modality"] = np.repeat(modalities, len(chosen))
    points["order"] = np.tile(orders.to_numpy()[chosen], len(modalities))
    points["text"] = np.tile(_labels(table.iloc[chosen]), len(modalities))
    sentence = (
        f"{len(chosen):,} of {len(table):,} specimens, once for each of "
        f"{', '.join(FEATURES[name] for name in modalities)}, laid on a plane so that neighbours "
        "stay neighbours (PaCMAP). Well-trained embeddings show islands of one colour; distances "
        "between islands mean little."
    )
    if len(modalities) > 1:
        sentence += (
            " The menu colours the same points by modality: where these colours lie apart, the "
            "modalities of one insect are not yet at the same place."
        )
    return Plot("Map of the embeddings", _figure(points, orders.value_counts()), sentence)


def _comparable(sets: Collection[Specimens]) -> list[str]:
    """Return the modalities that all sets have, and that are of one dimension."""
    widths = {
        name: [each.modalities[name].shape[1] for each in sets]
        for name in _MODALITIES
        if all(name in each.modalities for each in sets)
    }
    return [name for name, width in widths.items() if width == next(iter(widths.values()))]


def _vectors(sets: Collection[Specimens], modality: str, rows: Rows) -> torch.Tensor:
    """Return unit embeddings of chosen rows of all sets put together, float32."""
    parts, start = [], 0
    for each in sets:
        inside = rows[(rows >= start) & (rows < start + len(each))] - start
        values = each.modalities[modality]
        parts.append(values[torch.from_numpy(inside).to(values.device)].float().cpu())
        start += len(each)
    return F.normalize(torch.cat(parts), dim=1)


def _labels(table: pd.DataFrame) -> list[str]:
    """Return what to show of each specimen: its finest name."""
    finest = table[list(reversed(RANKS))].astype(object).bfill(axis=1).iloc[:, 0]
    return [escape(name) if isinstance(name, str) else _UNKNOWN for name in finest]


def _figure(points: pd.DataFrame, orders: "pd.Series[int]") -> go.Figure:
    figure = go.Figure()
    names = [name for name in orders.index if name != _UNKNOWN]
    colours = dict(zip(names, _ORDERS, strict=False))
    group = points["order"].where(points["order"].isin(list(colours)), "other or unknown")
    for name in [*colours, "other or unknown"]:
        _add(figure, points[group == name], name, colours.get(name, _OTHER), visible=True)
    by_order = len(figure.data)
    modalities = points["modality"].unique()
    for name, (colour, _) in _MODALITIES.items() if len(modalities) > 1 else ():
        _add(figure, points[points["modality"] == name], FEATURES[name], colour, visible=False)
    style(figure, "", "", height=620)
    figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_layout(margin={"r": 10}, legend={"itemsizing": "constant"})
    count = len(figure.data)
    choices = {"by order": range(by_order), "by modality": range(by_order, count)}
    menu(
        figure,
        [("update", name, [show_only(count, shown)]) for name, shown in choices.items() if shown],
    )
    return figure


def _add(figure: go.Figure, points: pd.DataFrame, name: str, colour: str, visible: bool) -> None:
    if points.empty:
        return
    symbols: list[Any] = [_MODALITIES[modality][1] for modality in points["modality"]]
    figure.add_scatter(
        x=points["x"].to_numpy(), y=points["y"].to_numpy(), mode="markers", name=escape(name),
        marker={"color": colour, "symbol": symbols, "size": 5, "opacity": 0.7},
        text=points["text"].tolist(), hovertemplate="%{text}", visible=visible,
    )  # fmt: skip
