"""Embeddings on a plane: how orders part, and how photos and barcodes meet."""

import logging
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.express as px
import torch
from torch.nn import functional as F

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.html import Plot, menu_of, style
from projects.bioscan_clip.reports.plots import FEATURES
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.specimens import MODALITIES, Specimens

POINTS: Final = 5000
FEWEST: Final = 30
"""Vectors below which a map tells nothing."""

_OF_EACH_ORDER = 25
_NEIGHBOURS = 10
_SEED = 0
_ORDERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f6bb3")
_OTHER = "other or unknown"
_MODALITIES = {
    "photo": ("#0072b2", "circle"),
    "barcode": ("#e69f00", "diamond"),
    "name": ("#009e73", "x"),
}


def map_plot(evaluation: Evaluation) -> Plot | None:
    """Draw keys and queries on a plane by PaCMAP; None if there are too few.

    Parameters
    ----------
    evaluation : Evaluation
        What was embedded. Modalities whose dimension is not the first one's are left out.
    """
    sets = [evaluation.keys, *evaluation.queries.values()]
    orders = pd.concat([each.names["order"] for each in sets], ignore_index=True)
    modalities = _comparable(sets)
    if not modalities or len(orders) * len(modalities) < FEWEST:
        return None
    rows = choose_rows(orders, POINTS // len(modalities))
    ends = np.cumsum([len(each) for each in sets])
    parts = np.split(rows, np.searchsorted(rows, ends[:-1]))
    chosen = Specimens.concatenate(
        [
            each[torch.from_numpy(part - end + len(each))]
            for each, part, end in zip(sets, parts, ends, strict=True)
        ]
    )
    vectors = torch.cat([chosen.modalities[name].float().cpu() for name in modalities])
    points = pd.DataFrame(flatten(F.normalize(vectors, dim=1).numpy(), _SEED), columns=["x", "y"])
    names = chosen.names[list(reversed(RANKS))].astype(object)
    finest = names.bfill(axis=1).iloc[:, 0].fillna("unknown").map(escape)
    common = orders.value_counts().index[: len(_ORDERS)]
    order = chosen.names["order"].astype(object).where(chosen.names["order"].isin(common), _OTHER)
    points["modality"] = np.repeat([FEATURES[name] for name in modalities], len(rows))
    points["name"] = np.tile(finest, len(modalities))
    points["order"] = np.tile(order.map(escape), len(modalities))
    colours = dict(zip(map(escape, common), _ORDERS, strict=False)) | {_OTHER: "#9aa5b1"}
    views = {"by order": _coloured(points, "order", colours)}
    sentence = (
        f"{len(rows):,} of {len(orders):,} specimens, once for each of "
        f"{', '.join(points['modality'].unique())}, laid on a plane so that neighbours stay "
        "neighbours (PaCMAP). Well-trained embeddings show islands of one colour; distances "
        "between islands mean little."
    )
    if len(modalities) > 1:
        shades = {name: colour for name, (colour, _) in _MODALITIES.items()}
        views["by modality"] = _coloured(points, "modality", shades)
        sentence += (
            " The menu colours the same points by modality: where these colours lie apart, the "
            "modalities of one insect are not yet at the same place."
        )
    figure = menu_of(views)
    style(figure, "", "", height=620)
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(showticklabels=False, showgrid=False, zeroline=False)
    figure.update_layout(margin={"r": 10}, legend={"itemsizing": "constant"})
    return Plot("Map of the embeddings", figure, sentence)


def _comparable(sets: list[Specimens]) -> list[str]:
    """Return the modalities that all sets have, and that are of one dimension."""
    common = [name for name in MODALITIES if all(name in each.modalities for each in sets)]
    widths = {name: sets[0].modalities[name].shape[1] for name in common}
    return [name for name in common if widths[name] == widths[common[0]]]


def _coloured(points: pd.DataFrame, by: str, colours: dict[str, str]) -> Any:
    figure = px.scatter(
        points, x="x", y="y", color=by, color_discrete_map=colours, hover_name="name",
        category_orders={by: list(colours)}, custom_data="modality", opacity=0.7,
    )  # fmt: skip
    figure.update_traces(hovertemplate="%{hovertext}", marker_size=5)
    for trace in figure.data:  # a mark for every modality, whatever the colour
        trace.marker.symbol = [_MODALITIES[modality][1] for (modality,) in trace.customdata]
        trace.customdata = None
    return figure


def choose_rows(orders: pd.Series, count: int, seed: int = _SEED) -> npt.NDArray[np.int64]:
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


def flatten(vectors: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """Lay vectors on a plane so that neighbours stay neighbours.

    By PaCMAP (Wang et al., JMLR 2021).

    Parameters
    ----------
    vectors : numpy.ndarray
        float32, shape ``(N, D)``, N at least `FEWEST`.
    seed : int
        The same seed and vectors give the same plane on one machine.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(N, 2)``.
    """
    import faiss
    import pacmap  # takes three seconds, which only those who want a map should wait for

    logging.getLogger("pacmap").setLevel(logging.ERROR)
    neighbours = min(_NEIGHBOURS, len(vectors) // 5)
    state, threads = np.random.get_state(), faiss.omp_get_max_threads()  # noqa: NPY002
    try:
        plane = pacmap.PaCMAP(n_neighbors=neighbours, random_state=seed)
        # The copy is for PaCMAP, which scales what it is given.
        flat: npt.NDArray[np.float32] = plane.fit_transform(vectors.copy(), init="pca")
        return flat.astype(np.float32)
    finally:  # PaCMAP seeds NumPy for everyone, and leaves one thread to FAISS.
        np.random.set_state(state)  # noqa: NPY002
        faiss.omp_set_num_threads(threads)
