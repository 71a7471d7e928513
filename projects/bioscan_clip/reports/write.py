"""What one evaluation leaves in its output folder."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, get_args

from projects.bioscan_clip.reports.metrics_files import save_about, save_metrics, save_table
from projects.bioscan_clip.reports.page import write_page
from projects.bioscan_clip.reports.predictions import save_predictions
from projects.bioscan_clip.reports.results import load_published
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.wandb import log_report
from projects.bioscan_clip.scoring.evaluation import Evaluation

Level = Literal["off", "light", "full"]

PAGE: Final = "report.html"


def as_level(level: Level | bool) -> Level:
    """Check how much is wanted; YAML reads ``off`` as false.

    Raises
    ------
    ValueError
        If it is none of ``off``, ``light`` and ``full``.
    """
    named = "off" if level is False else level
    if isinstance(named, bool) or named not in get_args(Level):
        raise ValueError(f"A report is off, light or full, but not {level!r}.")
    return named


def write_report(
    evaluation: Evaluation,
    sets: EvaluatedSets,
    about: Mapping[str, Any],
    folder: Path,
    level: Level,
    loggers: Iterable[Any] = (),
) -> list[Path]:
    """Write the files of an evaluation, and log what they show.

    Parameters
    ----------
    evaluation : Evaluation
        What was found.
    sets : EvaluatedSets
        What was evaluated, with `specimens` unless `level` is ``off``.
    about : mapping
        More of what was evaluated, for ``evaluation.json`` and the page.
    folder : pathlib.Path
        Where to; made if missing.
    level : {"off", "light", "full"}
        Only ``metrics.json``; also ``metrics.csv``, ``predictions.parquet``, ``evaluation.json``
        and ``report.html``; or the page with photos and a map of embeddings.
    loggers : iterable, optional
        The trainer's loggers; those of Weights & Biases get tables, figures and the page.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    named = {f"{sets.stage}/{name}": value for name, value in evaluation.numbers().items()}
    files = [save_metrics(named, folder)]
    if level == "off":
        return files
    about = {**about, "stage": sets.stage, "version": version("bioscan-clip")}
    files += [
        save_table(evaluation.metrics, folder),
        save_predictions(evaluation, sets.specimens, folder),
        save_about(about, folder),
    ]
    page = folder / PAGE
    shown = write_page(
        evaluation,
        sets.specimens,
        about,
        page,
        full=level == "full",
        published=load_published(),
    )
    files.append(page)
    log_report(loggers, evaluation, files, shown)
    return files
