"""The table of many runs: in the terminal, as Markdown, LaTeX or CSV."""

import io
from typing import Literal

import numpy as np
import pandas as pd
from rich.box import HORIZONTALS
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.console import print_accuracy
from projects.bioscan_clip.reports.published import LAYOUT, Source
from projects.bioscan_clip.reports.runs import ROLES, shared_facts
from projects.bioscan_clip.reports.summary import Summary

Format = Literal["rich", "markdown", "latex", "csv"]

_COLUMNS = [(average, split) for average in ("micro", "macro") for split in ("seen", "unseen")]
_HEADINGS = ["rank", "top-1, %", *(f"{average}, {split}" for average, split in _COLUMNS)]
_TIDY = [
    *("source", "query", "key", "split", "average", "k", "level"),
    *("percent", "std", "n", "difference"),
]
_BRACKETS = "In brackets: the runs' figure minus the published one, in percentage points."
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"±": r"$\pm$"}
)


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print the table, what a reader must know of it, and its sources.

    Where one run has published figures of its pair beside it, the accuracies of the usual pairs
    come first, and the comparison follows unless the data are others.
    """
    console = console or Console()
    lines = _lines_below(summary)
    is_compared = True
    if len(summary.runs) == 1 and summary.sources:
        run = summary.runs[0]
        print_accuracy(run.metrics, run.sizes, console)
        is_compared = summary.on_published_data is not False
    if is_compared:
        console.print(_rich_table(summary))
    else:
        lines = ["Not compared with published figures, which are of other data.", *summary.notes]
    for line in lines:
        console.print(escape(line), highlight=False)


def render(summary: Summary, form: Format) -> str:
    """Return the table, its notes and its sources as text that ends in a line break.

    ``csv`` has one row per number, unrounded, and neither notes nor sources.
    """
    if form == "markdown":
        return _markdown(summary)
    if form == "latex":
        return _latex(summary)
    if form == "csv":
        return tidy(summary).to_csv(index=False)
    text = io.StringIO()
    print_summary(summary, Console(file=text, width=100))
    return text.getvalue()


def tidy(summary: Summary) -> pd.DataFrame:
    """Return one row per number.

    Returns
    -------
    pandas.DataFrame
        Columns ``source`` (``runs``, or a publication's name), ``query``, ``key``, ``split``,
        ``average``, ``k``, ``level``, ``percent`` (of runs, their mean), ``std``, ``n`` (runs) and
        ``difference`` (the runs' mean minus this, in percentage points).
    """
    runs = summary.figures.rename(columns={"mean": "percent"}).assign(source="runs")
    published = [
        pd.DataFrame({"percent": source.percent, "difference": summary.difference(source)}).assign(
            source=source.name
        )
        for source in summary.sources
    ]
    table = pd.concat([runs.assign(difference=np.nan), *published]).reset_index()
    table = table.assign(query=summary.query, key=summary.key, k=1).astype({"n": "Int64"})
    return table[_TIDY]


def _title(summary: Summary) -> str:
    seeds = sorted({run.seed for run in summary.runs if run.seed is not None})
    named = f" (seed{'s'[: len(seeds) != 1]} {', '.join(map(str, seeds))})" if seeds else ""
    pair = f"Top-1 accuracy in percent, {summary.query} to {summary.key}"
    if len(summary.runs) == 1:
        return f"{pair}: one run{named}"
    return f"{pair}: mean ± std of {len(summary.runs)} runs{named}"


def _rows(summary: Summary) -> list[list[list[str]]]:
    """Return cells: for each rank, a row of the runs and one of each source."""
    figures = zip(LAYOUT, summary.figures.to_numpy(), strict=True)
    own = {cell: _own(mean, std, n) for cell, (mean, std, n) in figures}
    return [
        [
            [level, _runs_name(summary)] + [own[(level, *column)] for column in _COLUMNS],
            *(
                ["", source.name]
                + [_others(summary, source, (level, *column)) for column in _COLUMNS]
                for source in summary.sources
            ),
        ]
        for level in RANKS
    ]


def _own(mean: float, std: float, n: float) -> str:
    if n == 0:
        return "-"
    return f"{mean:.1f}" + (f" ± {std:.1f}" if n > 1 else "")


def _others(summary: Summary, source: Source, cell: tuple[str, str, str]) -> str:
    difference = summary.difference(source)[cell]
    # Adding zero makes a rounded -0.0 a 0.0.
    bracket = f" ({round(difference, 1) + 0.0:+.1f})" if pd.notna(difference) else ""
    return f"{source.percent[cell]:.1f}{bracket}"


def _lines_below(summary: Summary) -> list[str]:
    sources = [f"{source.name}: {source.title}, {source.url}" for source in summary.sources]
    brackets = [_BRACKETS] if sources else []
    return [*summary.caveats, *summary.notes, *brackets, *_origin(summary), *sources]


def _origin(summary: Summary) -> list[str]:
    """Say what was scored, as far as it is known."""
    facts = shared_facts(summary.runs)
    parts = sorted({run.experiment for run in summary.runs if run.experiment})
    parts += [facts["data file"]] if "data file" in facts else []
    for role in ROLES:
        split, number = facts.get(f"split of {role}"), facts.get(f"number of {role}")
        parts += [f"{split} ({number})" if number else split] if split else []
    return [f"{_runs_name(summary)}: {', '.join(parts)}"] if parts else []


def _runs_name(summary: Summary) -> str:
    return "these runs" if len(summary.runs) > 1 else "this run"


def _rich_table(summary: Summary) -> Table:
    # Narrow enough for 80 columns.
    table = Table(
        title=_title(summary), title_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0)
    )
    for heading in _HEADINGS[:2]:
        table.add_column(heading, no_wrap=True)
    for heading in _HEADINGS[2:]:
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for own, *others in _rows(summary):
        table.add_row(*own, style="bold")
        for row in others:
            table.add_row(*row)
        if others:
            table.add_section()
    return table


def _markdown(summary: Summary) -> str:
    rows = [row for rank in _rows(summary) for row in rank]
    rule = ["---", "---", *["---:"] * len(_COLUMNS)]
    lines = [f"**{_title(summary)}**", ""]
    lines += ["| " + " | ".join(row) + " |" for row in (_HEADINGS, rule, *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in _lines_below(summary))]) + "\n"


def _latex(summary: Summary) -> str:
    """Return a table environment for the package booktabs."""
    ranks = [
        [" & ".join(map(_latex_cell, row)) + r" \\" for row in rank] for rank in _rows(summary)
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_title(summary).translate(_LATEX)}}}",
            r"\footnotesize",  # so that it fits between the margins of an article
            r"\begin{tabular}{llrrrr}",
            r"\toprule",
            " & ".join(map(_latex_cell, _HEADINGS)) + r" \\",
            *(line for rank in ranks for line in (r"\midrule", *rank)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\raggedright",
            *(line.translate(_LATEX) + r"\par" for line in _lines_below(summary)),
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(text: str) -> str:
    return text.translate(_LATEX).replace("(-", "($-$")
