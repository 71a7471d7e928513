"""The tables and figures of an evaluation in Weights & Biases."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import wandb

from projects.bioscan_clip.reports.page import Shown
from projects.bioscan_clip.scoring.evaluation import Evaluation

_LARGEST_PAGE: Final = 20_000_000


def log_report(
    runs: Iterable[Any],
    evaluation: Evaluation,
    files: Sequence[Path],
    shown: Shown | None = None,
) -> None:
    """Log what an evaluation wrote to runs of Weights & Biases.

    Tables ``report/metrics`` and ``report/confused_{rank}``, figures ``report/{name}``, and as
    ``report/page`` the page, unless it has more than 20 MB.

    Parameters
    ----------
    runs : iterable of wandb.Run
        Where to.
    evaluation : Evaluation
        What was found.
    files : sequence of pathlib.Path
        What was written; of these, HTML files are logged.
    shown : Shown, optional
        Plots and tables of the page; left out if None.
    """
    values: dict[str, Any] = {"report/metrics": _table(evaluation.metrics)}
    if shown is not None:
        for name, plot in shown.plots.items():
            values[f"report/{name}"] = wandb.Plotly(plot.figure)
        for rank, rows in shown.confusions.items():
            values[f"report/confused_{rank}"] = _table(rows)
    for page in files:
        if page.suffix == ".html" and page.stat().st_size <= _LARGEST_PAGE:
            values["report/page"] = wandb.Html(page.read_text("utf-8"), inject=False)
    for run in runs:
        run.log(values)


def _table(rows: pd.DataFrame) -> wandb.Table:
    return wandb.Table(dataframe=rows)
