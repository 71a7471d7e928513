"""The table of many runs: their accuracies beside published figures."""

import sys
from dataclasses import dataclass
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any, Final

import pandas as pd
from rich.console import Console

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.files import check_output
from projects.bioscan_clip.reports.evaluation import print_accuracy
from projects.bioscan_clip.reports.results import (
    LAYOUT,
    ROLES,
    SEEN_BIOSCAN,
    Summary,
    collect_runs,
    summarize,
    unfinished_runs,
)
from projects.bioscan_clip.reports.text_table import Format, TextTable
from projects.bioscan_clip.scoring.neighbours import PAIRS

_TIDY: Final = [
    *("source", "query", "key", "split", "average", "k", "level"),
    *("percent", "std", "n", "difference"),
]
_BRACKETS = "In brackets: the runs' figure minus the published one, in percentage points."
_COLUMNS: Final = list(product(("micro", "macro"), ("seen", "unseen")))
_HEADINGS: Final = ["rank", "top-1, %", *map(", ".join, _COLUMNS)]


def print_results(
    folders: list[Path],
    query: str,
    key: str,
    form: Format,
    out: Path | None = None,
    force: bool = False,
) -> None:
    """Average runs, print their table, and write it to a file if one is named.

    What the table cannot hold goes to the standard error: runs that did not finish and, of CSV,
    what a reader must know.

    Parameters
    ----------
    folders : list of pathlib.Path
        See :func:`~projects.bioscan_clip.reports.results.collect_runs`.
    query, key : str
        Features of queries and keys.
    form, out, force
        Form of the file `out` or, without one, of what is printed; and whether `out` may replace a
        file that is there.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        If there are no such runs, they cannot be understood or averaged, or the file cannot be
        written.
    """
    if out is not None:
        check_output(out, force=force)
    summary = summarize(collect_runs(folders), query, key)
    for folder in unfinished_runs(folders):
        print(f"Left out: {folder} has no metrics.json; it did not finish.", file=sys.stderr)
    if form == "csv":
        print(*summary.caveats, *summary.notes, sep="\n", file=sys.stderr)
    _table(summary).show(form, out)


def print_summary(summary: Summary, console: Console) -> None:
    """Print the table, what a reader must know of it, and its sources.

    Of one run, the accuracies of the usual pairs come first; the table follows if it says more.
    """
    _table(summary).print(console)


def render(summary: Summary, form: Format) -> str:
    """Return the table, its notes and its sources as text that ends in a line break.

    ``csv`` has one row per number, unrounded, and neither notes nor sources.
    """
    return _table(summary).render(form)


def tidy(summary: Summary) -> pd.DataFrame:
    """Return one row per number.

    Returns
    -------
    pandas.DataFrame
        Columns ``source`` (``runs``, or a publication's name), ``query``, ``key``, ``split``,
        ``average``, ``k``, ``level``, ``percent`` (of runs, their mean), ``std``, ``n`` (runs) and
        ``difference`` (the runs' mean minus this, in percentage points).
    """
    runs = summary.figures.rename(columns={"mean": "percent"})
    parts = {"runs": runs.assign(difference=float("nan"))}
    for source in summary.sources:
        difference = runs["percent"] - source.percent
        parts[source.name] = pd.DataFrame({"percent": source.percent, "difference": difference})
    table = pd.concat(parts, names=["source"]).reset_index()
    table = table.assign(query=summary.query, key=summary.key, k=1).astype({"n": "Int64"})
    return table[_TIDY]


@dataclass(frozen=True)
class _RunsTable(TextTable):
    summary: Summary

    def print(self, console: Console) -> None:
        summary = self.summary
        is_listed = len(summary.runs) == 1 and (summary.query, summary.key) in PAIRS
        if is_listed:
            (run,) = summary.runs
            known = {role: run.facts.get(f"number of {role}") for role in ROLES}
            sizes = {role: size for role, size in known.items() if isinstance(size, int)}
            print_accuracy(run.metrics, sizes, console)
        if summary.sources or not is_listed:
            super().print(console)
        else:
            self.print_lines(console)


def _table(summary: Summary) -> _RunsTable:
    cells, below = _cells(summary), _lines_below(summary)
    return _RunsTable(_title(summary), cells, below, tidy(summary), summary)


def _cells(summary: Summary) -> pd.DataFrame:
    """Return cells as text, with a row of the runs and one of each publication for every rank."""

    def own(mean: float, std: float, n: float) -> str:
        return "-" if n == 0 else f"{mean:.1f}" + (f" ± {std:.1f}" if n > 1 else "")

    def beside(percent: float, mean: float) -> str:
        # Adding zero makes a rounded -0.0 a 0.0.
        return f"{percent:.1f}" + (
            "" if isnan(mean) else f" ({round(mean - percent, 1) + 0.0:+.1f})"
        )

    figures = summary.figures
    texts = {_runs_name(summary): map(own, figures["mean"], figures["std"], figures["n"])}
    for source in summary.sources:
        texts[source.name] = map(beside, source.percent, figures["mean"])
    cells: Any = pd.DataFrame(texts, LAYOUT)
    rows = [
        [rank, label, *(cells.loc[(rank, *column), label] for column in _COLUMNS)]
        for rank, label in product(RANKS, texts)
    ]
    table = pd.DataFrame(rows, columns=_HEADINGS)
    return table.assign(rank=table["rank"].mask(table["rank"].duplicated(), ""))


def _title(summary: Summary) -> str:
    seeds = sorted({run.seed for run in summary.runs if run.seed is not None})
    named = f" (seed{'s'[: len(seeds) != 1]} {', '.join(map(str, seeds))})" if seeds else ""
    pair = f"Top-1 accuracy in percent, {summary.query} to {summary.key}"
    if len(summary.runs) == 1:
        return f"{pair}: one run{named}"
    return f"{pair}: mean ± std of {len(summary.runs)} runs{named}"


def _runs_name(summary: Summary) -> str:
    mark = "*" if SEEN_BIOSCAN in summary.notes else ""
    return ("these runs" if len(summary.runs) > 1 else "this run") + mark


def _lines_below(summary: Summary) -> list[str]:
    """Say where figures differ, what was scored as far as it is known, and who published."""
    facts = summary.facts
    scored = sorted({run.experiment for run in summary.runs if run.experiment})
    scored += [facts["data file"]] if "data file" in facts else []
    for role in ROLES:
        split, number = facts.get(f"split of {role}"), facts.get(f"number of {role}")
        scored += [f"{split} ({number})" if number else split] if split else []
    return [
        *summary.caveats,
        *summary.notes,
        *([_BRACKETS] if summary.sources else []),
        *([f"{_runs_name(summary)}: {', '.join(scored)}"] if scored else []),
        *(f"{source.name}: {source.title}, {source.url}" for source in summary.sources),
    ]
