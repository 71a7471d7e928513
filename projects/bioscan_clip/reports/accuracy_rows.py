"""The table of accuracies, as papers print it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.results import Published, Source
from projects.bioscan_clip.reports.wording import MAIN_PAIRS, Pair, pair_name

AVERAGES: Final = ("micro", "macro")
_Numbers = Mapping[tuple[str, ...], npt.NDArray[np.float64]]
_METHODS = (("rgb", "is_du"), ("rgb", "linear_du"))
_SPLITS = ("seen", "unseen", "harmonic")


@dataclass(frozen=True)
class Cell:
    """An accuracy in percent and its interval, as text; empty where there is none."""

    value: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One line of numbers: of this evaluation, or of a publication."""

    label: str
    cells: list[Cell]
    is_published: bool = False


@dataclass(frozen=True)
class AccuracyRows:
    """Accuracies with one column for every rank and split.

    Attributes
    ----------
    splits : list of str
        Splits under each rank.
    blocks : dict of str to list of Row
        Rows by the name of the pair.
    sources : list of str
        Who published the numbers that are shown beside.
    decisions : list of str
        How well methods tell seen species from unseen ones.
    """

    splits: list[str]
    blocks: dict[str, list[Row]]
    sources: list[str]
    decisions: list[str]


def accuracy_rows(metrics: pd.DataFrame, published: Published | None) -> AccuracyRows:
    """Arrange top-1 accuracies of the pairs and methods that papers report.

    Parameters
    ----------
    metrics : pandas.DataFrame
        As :class:`~projects.bioscan_clip.scoring.evaluation.Evaluation` holds them.
    published : Published, optional
        Numbers to show beside; give them only where the data are the same.
    """
    top_one = metrics[(metrics["k"] == 1) & metrics["average"].isin(AVERAGES)]
    splits = [split for split in _SPLITS if split in set(top_one["split"])]
    columns = ["query", "key", "average", "level", "split"]
    numbers = 100 * top_one[["value", "low", "high"]].to_numpy()
    found = dict(zip(zip(*(top_one[name] for name in columns), strict=True), numbers, strict=True))
    blocks, sources = {}, []
    for pair in (*MAIN_PAIRS, *_METHODS):
        is_published = published is not None and pair == (published.query, published.key)
        beside = published.sources if published is not None and is_published else []
        rows = list(_rows(found, pair, splits, beside))
        if rows:
            blocks[pair_name(pair)] = rows
            sources += [
                f"{source.name}: {source.title} ({', '.join(source.splits.values())})."
                for source in beside
            ]
    return AccuracyRows(splits, blocks, sources, list(_decisions(metrics)))


def _rows(
    found: _Numbers, pair: Pair, splits: list[str], sources: Sequence[Source]
) -> Iterator[Row]:
    for average in AVERAGES:
        names = [(*pair, average, rank, split) for rank in RANKS for split in splits]
        if not any(name in found for name in names):
            continue
        yield Row(average, [_cell(*found[name]) if name in found else Cell() for name in names])
        for source in sources:
            wanted = [(rank, average, split) for rank in RANKS for split in splits]
            percent = source.percent.reindex(wanted)
            cells = [Cell() if pd.isna(value) else Cell(f"{value:.1f}") for value in percent]
            yield Row(source.name, cells, is_published=True)


def _decisions(metrics: pd.DataFrame) -> Iterator[str]:
    rows = metrics[metrics["average"] == "decision"].set_index(["query", "key", "level"])["value"]
    for pair in _METHODS:
        if (*pair, "auroc") in rows.index:
            accuracy, area, threshold = (
                rows[*pair, level] for level in ("accuracy", "auroc", "threshold")
            )
            yield (
                f"{pair_name(pair)}: {accuracy:.1%} of queries are rightly taken for seen or "
                f"unseen (AUROC {area:.3f}, threshold {threshold:.3f})."
            )


def _cell(value: float, low: float, high: float) -> Cell:
    return Cell(f"{value:.1f}", "" if pd.isna(low) else f"{low:.1f}\N{EN DASH}{high:.1f}")
