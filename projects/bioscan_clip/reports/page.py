"""The page that an evaluation leaves: opens offline, shows all that was found."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from projects.bioscan_clip.reports.accuracy_plot import accuracy_plot
from projects.bioscan_clip.reports.accuracy_rows import accuracy_rows
from projects.bioscan_clip.reports.class_plot import class_plot
from projects.bioscan_clip.reports.confusion import confusion_tables
from projects.bioscan_clip.reports.gallery import gallery
from projects.bioscan_clip.reports.headline import facts, key_figures, missing, title
from projects.bioscan_clip.reports.html import render
from projects.bioscan_clip.reports.map_plot import map_plot
from projects.bioscan_clip.reports.mistake_plot import mistake_plot
from projects.bioscan_clip.reports.nearest import nearest_names
from projects.bioscan_clip.reports.plot import Plot
from projects.bioscan_clip.reports.results import Published
from projects.bioscan_clip.reports.similarity_plot import similarity_plot
from projects.bioscan_clip.reports.wording import Pair, in_order, pair_name
from projects.bioscan_clip.scoring.evaluation import Evaluation

_TEMPLATE: Final = Path(__file__).with_name("evaluation.html.j2")


@dataclass(frozen=True)
class Shown:
    """What a page shows, for other places that show the same.

    Attributes
    ----------
    plots : dict of str to Plot
        ``accuracy``, ``classes``, ``mistakes``, ``similarity`` and ``map``, as far as there are
        data.
    confusions : dict of str to pandas.DataFrame
        The most confused taxa by rank.
    """

    plots: dict[str, Plot]
    confusions: dict[str, pd.DataFrame]


def write_page(
    evaluation: Evaluation,
    about: Mapping[str, Any],
    path: Path,
    *,
    full: bool,
    published: Published | None = None,
) -> Shown:
    """Write an evaluation as one HTML file, which needs nothing else.

    What the data do not allow (no query of unseen species, no barcodes, no names at a rank) is
    left out, and the page says so.

    Parameters
    ----------
    evaluation : Evaluation
        What was found, among sets with tables.
    about : mapping
        What was evaluated, as ``evaluation.json`` says.
    path : pathlib.Path
        The page; its folder is made if missing.
    full : bool
        Whether to draw the map of embeddings, which takes some seconds, and to show photos.
    published : Published, optional
        Published numbers. They are shown beside if there are as many keys as they were measured
        with, which tells whether the data are the same.

    Returns
    -------
    Shown
        Plots and tables of the page.
    """
    pair = _first_pair(evaluation)
    nearest = nearest_names(evaluation, pair) if pair else pd.DataFrame()
    plots: dict[str, Plot | None] = {
        "accuracy": accuracy_plot(evaluation.metrics),
        "mistakes": mistake_plot(evaluation.metrics),
        "similarity": similarity_plot(evaluation),
    }
    confusions = {}
    if pair and len(nearest):
        plots["classes"] = class_plot(nearest, evaluation.keys.names, pair)
        confusions = confusion_tables(nearest)
    is_comparable = published is not None and len(evaluation.keys) == published.key_specimens
    if full:
        plots["map"] = map_plot(evaluation)
    shown = Shown({name: plot for name, plot in plots.items() if plot}, confusions)
    render(
        _TEMPLATE,
        path,
        title=title(about),
        stage=about.get("stage", ""),
        facts=facts(about),
        figures=key_figures(evaluation),
        missing=missing(evaluation),
        table=accuracy_rows(evaluation.metrics, published if is_comparable else None),
        pair=pair_name(pair) if pair else "",
        shown=shown,
        gallery=gallery(evaluation) if full else [],
    )
    return shown


def _first_pair(evaluation: Evaluation) -> Pair | None:
    """Return the first pair in the order of reports; None if nothing was compared."""
    pairs = in_order((match.query, match.key) for match in evaluation.neighbours)
    return pairs[0] if pairs else None
