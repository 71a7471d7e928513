"""The page of an evaluation: opens offline, shows all that was found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isnan, nan
from pathlib import Path
from typing import Any, Final

import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.corruption import corruption_plot, corruption_rows
from projects.bioscan_clip.reports.gallery import gallery
from projects.bioscan_clip.reports.html import Plot, render
from projects.bioscan_clip.reports.map_plot import map_plot
from projects.bioscan_clip.reports.plots import (
    accuracy_plot,
    class_plot,
    confused_taxa,
    coverage_plot,
    in_order,
    mistake_plot,
    pair_name,
    reliability_plot,
    similarity_plot,
)
from projects.bioscan_clip.reports.predictions import predictions
from projects.bioscan_clip.reports.results import (
    AS_THEY_ARE,
    SEEN_BIOSCAN,
    Published,
    queries_in_words,
    taxa_in_words,
)
from projects.bioscan_clip.scoring.confidence import ABSENT, PRECISION
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import PAIRS, Match
from projects.bioscan_clip.scoring.open_world import METHODS

_TEMPLATE: Final = Path(__file__).with_name("evaluation.html.j2")
_ROLES: Final = {
    "keys": "keys",
    "seen": "queries of seen species",
    "unseen": "queries of unseen species",
    "novel": "specimens of novel species",
}
_LARGEST_PAGE: Final = 20_000_000


@dataclass(frozen=True)
class Shown:
    """What a page shows, for other places that show the same.

    Attributes
    ----------
    plots : dict of str to Plot
        ``accuracy``, ``classes``, ``mistakes``, ``corruption``, ``similarity``, ``reliability``,
        ``coverage`` and ``map``, as far as there are data.
    confusions : dict of str to pandas.DataFrame
        The most confused taxa by rank, the finest rank first.
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
        What was evaluated, as ``evaluation.json`` says; anything may be missing.
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
    pairs = in_order((match.query, match.key) for match in evaluation.neighbours)
    matches = [Match(*pair, split) for pair in pairs[:1] for split in evaluation.queries]
    tables = [predictions(evaluation, match) for match in matches if match in evaluation.neighbours]
    nearest = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    plots = {
        "accuracy": accuracy_plot(evaluation.metrics),
        "mistakes": mistake_plot(evaluation.metrics),
        "corruption": corruption_plot(evaluation.metrics),
        "classes": class_plot(nearest, evaluation.keys.names) if len(nearest) else None,
        "similarity": similarity_plot(evaluation),
        "reliability": reliability_plot(evaluation.trust),
        "coverage": coverage_plot(evaluation.trust),
        "map": map_plot(evaluation) if full else None,
    }
    confusions = {rank: confused_taxa(nearest, rank) for rank in RANKS[::-1] if len(nearest)}
    shown = Shown(
        {name: plot for name, plot in plots.items() if plot},
        {rank: table for rank, table in confusions.items() if len(table)},
    )
    if published is not None and (
        len(evaluation.keys) != published.key_specimens
        or (published.query, published.key) not in pairs
    ):
        published = None
    scored = set(evaluation.metrics["split"])
    splits = [split for split in ("seen", "unseen", "harmonic") if split in scored]
    render(
        _TEMPLATE,
        path,
        title=title(about),
        stage=about.get("stage", ""),
        untrained=bool(about.get("untrained")),
        seen_bioscan=SEEN_BIOSCAN if about.get("has_seen_bioscan") else "",
        facts=facts(about),
        figures=key_figures(evaluation),
        missing=list(missing(evaluation)),
        splits=splits,
        accuracies=accuracy_rows(evaluation.metrics, splits, published),
        damages=corruption_rows(evaluation.metrics, splits),
        decisions=list(decisions(evaluation.metrics)),
        sources=published.sources if published else [],
        pair=pair_name(pairs[0]) if pairs else "",
        accepted=accepted_names(evaluation.metrics),
        precision=PRECISION,
        shown=shown,
        gallery=list(gallery(evaluation)) if full else [],
    )
    return shown


def title(about: Mapping[str, Any]) -> str:
    """Return what to call an evaluation: its experiment, or else its run or data file."""
    run = Path(about.get("checkpoint") or "").parent.parent.name  # <run>/checkpoints/best.ckpt
    return str(about.get("experiment") or run or about.get("file") or "Evaluation")


def facts(about: Mapping[str, Any]) -> dict[str, str]:
    """Say what was evaluated, as values by label, in the order to show."""
    size = about.get("file_size") or 0
    written = f" ({size / 1e9:,.1f} GB)" if size >= 1e9 else f" ({size / 1e6:,.1f} MB)"
    splits = {
        label: ", ".join(f"{name} ({count:,})" for name, count in by_split.items())
        for role, label in _ROLES.items()
        if (by_split := about.get("splits", {}).get(role))
    }
    left_out = about.get("left_out") or {}
    others = [f"{left_out[role]:,} {label}" for role, label in _ROLES.items() if role in left_out]
    found = {
        "data": f"{about.get('file') or ''}{written if size else ''}",
        **splits,
        "checkpoint": about.get("checkpoint"),
        "restricted to": taxa_in_words(about["restrict_to"]) if about.get("restrict_to") else "",
        "left out, being of other taxa": ", ".join(others),
        "queries": "" if (queries := queries_in_words(about)) == AS_THEY_ARE else queries,
        "search": about.get("search"),
        "seed of the training": about.get("seed"),
        "version": about.get("version"),
    }
    return {label: str(value) for label, value in found.items() if value not in (None, "")}


def key_figures(evaluation: Evaluation) -> dict[str, str]:
    """Return the numbers to show first, as text by label.

    These are the numbers of specimens, and species accuracy (or that of the finest rank that has
    one) of the first pair that papers report.
    """
    figures = {"keys": f"{len(evaluation.keys):,}"}
    figures |= {_ROLES[split]: f"{len(each):,}" for split, each in evaluation.queries.items()}
    numbers = evaluation.numbers()
    for pair, rank in product(PAIRS, reversed(RANKS)):
        name = "{}_to_{}/{{}}/micro/top1/{}".format(*pair, rank)
        shares = {split: numbers.get(name.format(split)) for split in ("seen", "unseen")}
        if any(share is not None for share in shares.values()):
            return figures | {
                f"{rank}, {pair_name(pair)}, {split}": f"{share:.1%}"
                for split, share in shares.items()
                if share is not None
            }
    return figures


def missing(evaluation: Evaluation) -> Iterator[str]:
    """Say what data an evaluation lacked, which its page therefore does not show."""
    for split in ("seen", "unseen"):
        if len(evaluation.queries.get(split, ())) == 0:
            yield f"There were no queries of {split} species."
    for modality, name in {"rgb": "photos", "dna": "barcodes"}.items():
        if modality not in evaluation.keys.modalities:
            yield f"No {name} were embedded."
    known = [(each.labels >= 0).any(dim=0).tolist() for each in evaluation.queries.values()]
    unnamed = [rank for rank, *named in zip(RANKS, *known, strict=True) if not any(named)]
    if unnamed:
        yield f"No query has a known {' or '.join(unnamed)}."


def accuracy_rows(
    metrics: pd.DataFrame, splits: list[str], published: Published | None
) -> dict[str, list[tuple[str, list[str], bool]]]:
    """Arrange top-1 accuracies of the pairs and methods that papers report.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    splits : list of str
        The columns of each rank.
    published : Published, optional
        Numbers to show beside; give them only where the data are the same.

    Returns
    -------
    dict of str to list of tuple
        By pair, rows of a label, cells (an accuracy in percent and, after a blank, its interval;
        empty where there is none) and whether they are those of a publication.
    """
    blocks: dict[str, list[tuple[str, list[str], bool]]] = {}
    columns = list(product(RANKS, splits))
    by_row = dict(list(metrics[metrics["k"] == 1].groupby(["query", "key", "average"])))
    for pair, average in product((*PAIRS, *METHODS), ("micro", "macro")):
        if (*pair, average) not in by_row:
            continue
        rows = blocks.setdefault(pair_name(pair), [])
        numbers = by_row[*pair, average].set_index(["level", "split"])[["value", "low", "high"]]
        cells = (100 * numbers.reindex(columns)).itertuples(index=False)
        rows.append((average, [_cell(*cell) for cell in cells], False))
        if published and pair == (published.query, published.key):
            for source in published.sources:
                percent = source.percent.reindex(
                    [(rank, average, split) for rank, split in columns]
                )
                rows.append((source.name, [_cell(value) for value in percent], True))
    return blocks


def _cell(value: float, low: float = nan, high: float = nan) -> str:
    interval = "" if isnan(low) else f" {low:.1f}\N{EN DASH}{high:.1f}"
    return "" if isnan(value) else f"{value:.1f}{interval}"


def decisions(metrics: pd.DataFrame) -> Iterator[str]:
    """Say how well methods tell seen from unseen species, and similarity known from novel ones."""
    decided = metrics["average"] == "decision"
    novel = metrics[decided & (metrics["split"] == "novel")]
    for query, key, value in zip(novel["query"], novel["key"], novel["value"], strict=True):
        yield (
            f"{pair_name((query, key))}: a query is nearer to its nearest key than a specimen of a "
            f"novel species is with a probability of {value:.1%}, if some key has its species."
        )
    rows = metrics[decided & (metrics["split"] == "all")]
    for pair in METHODS:
        of_pair = rows[(rows["query"] == pair[0]) & (rows["key"] == pair[1])]
        values = dict(zip(of_pair["level"], of_pair["value"], strict=True))
        if values:
            yield (
                f"{pair_name(pair)}: {values['accuracy']:.1%} of queries are rightly taken for "
                f"seen or unseen (AUROC {values['auroc']:.3f}, threshold "
                f"{values['threshold']:.3f})."
            )


def accepted_names(metrics: pd.DataFrame) -> dict[str, list[tuple[str, list[str]]]]:
    """Say how many names are accepted of each group of queries, and how many of these are right.

    Returns
    -------
    dict of str to list of tuple
        By pair, a label of the group and a cell for each rank, such as "80% 97%"; the second number
        is missing where no name is accepted.
    """
    names = ["query", "key", "split", "average", "level"]
    values = metrics[metrics["average"].isin(["coverage", "precision"])].set_index(names)["value"]
    texts = values.map("{:.0%}".format).to_dict()
    groups = {split: _ROLES[split] for split in ("seen", "unseen")}
    groups[ABSENT] = "queries of species that no key has"
    tables: dict[str, list[tuple[str, list[str]]]] = {}
    for pair, (group, label) in product(PAIRS, groups.items()):
        cells = [
            " ".join(
                texts.get((*pair, group, what, rank), "") for what in ("coverage", "precision")
            )
            for rank in RANKS
        ]
        if any(cell.strip() for cell in cells):
            tables.setdefault(pair_name(pair), []).append((label, cells))
    return tables


def log_page(runs: Sequence[Any], evaluation: Evaluation, page: Path, shown: Shown) -> None:
    """Log what a page shows to runs of Weights & Biases.

    Tables ``report/metrics`` and ``report/confused_{rank}``, figures ``report/{name}``, and as
    ``report/page`` the page, unless it has more than 20 MB.

    Parameters
    ----------
    runs : sequence of wandb.Run
        Where to.
    evaluation : Evaluation
        What was found.
    page : pathlib.Path
        See :func:`write_page`, which returned `shown`.
    shown : Shown
        Plots and tables of the page.
    """
    import wandb  # takes a second, which only those who have a run should wait for

    values: dict[str, Any] = {"report/metrics": wandb.Table(dataframe=evaluation.metrics)}
    for name, plot in shown.plots.items():
        values[f"report/{name}"] = wandb.Plotly(plot.figure)
    for rank, rows in shown.confusions.items():
        values[f"report/confused_{rank}"] = wandb.Table(dataframe=rows)
    if page.stat().st_size <= _LARGEST_PAGE:
        values["report/page"] = wandb.Html(page.read_text("utf-8"), inject=False)
    for run in runs:
        run.log(values)
