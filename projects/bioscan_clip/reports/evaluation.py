"""From embeddings to numbers, files, and a table in the terminal: the one way for all who score."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rich.console import Console
from rich.table import Table

from projects.bioscan_clip.datasets.schema import RANKS, Role, Stage
from projects.bioscan_clip.files import check_output, write_whole
from projects.bioscan_clip.reports.clibd_features import save_clibd
from projects.bioscan_clip.reports.predictions import save_predictions
from projects.bioscan_clip.reports.results import load_published, read_about
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings
from projects.bioscan_clip.scoring.evaluation import Evaluation, Search, evaluate
from projects.bioscan_clip.scoring.neighbours import PAIRS
from projects.bioscan_clip.scoring.restriction import Restriction, described, restrict
from projects.bioscan_clip.scoring.specimens import Specimens

Level = Literal["off", "light", "full"]
_SPLITS: Final = ("seen", "unseen", "harmonic")


def evaluate_and_report(
    sets: Mapping[Role, Specimens],
    stage: Stage,
    folder: Path | None,
    *,
    about: Mapping[str, Any],
    report: Level = "full",
    top_k: Sequence[int] = (1, 3, 5),
    search: Search = "exact",
    restrict_to: Restriction | None = None,
    linear_head: bool | None = None,
    loggers: Sequence[Any] = (),
    show: bool = True,
) -> dict[str, float]:
    """Score sets of specimens, write the files of an evaluation, and print the usual numbers.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        ``keys``, queries, and queries to tune thresholds on; with tables, unless `report` is
        ``off``.
    stage : {"val", "test"}
        What names of numbers begin with.
    folder : pathlib.Path or None
        Where to write; made if missing. None scores only, as do all processes but the first.
    about : mapping
        More of what was evaluated, for ``evaluation.json`` and the page: ``experiment``, ``seed``
        (of the training), ``checkpoint``, ``file`` and ``file_size``, as far as known.
    report : {"off", "light", "full"}
        Only ``metrics.json``; also ``metrics.csv``, ``predictions.parquet``, ``evaluation.json``
        and ``report.html``; or the page with photos and a map of embeddings.
    top_k, search, linear_head
        See :func:`~projects.bioscan_clip.scoring.evaluation.evaluate`.
    restrict_to : mapping, str or pathlib.Path, optional
        See :func:`~projects.bioscan_clip.scoring.restriction.restrict`.
    loggers : sequence of wandb.Run, optional
        Runs of Weights & Biases, which get tables, figures and the page.
    show : bool, default=True
        Whether to print.

    Returns
    -------
    dict of str to float
        Every number by name, ``{stage}/{query}_to_{key}/{split}/{average}/top{k}/{level}``.
    """
    left_out: Mapping[Role, int] = {}
    if restrict_to is not None:
        sets, left_out = restrict(sets, restrict_to)
    evaluation = evaluate(sets, top_k, search, linear_head)
    metrics = {f"{stage}/{name}": value for name, value in evaluation.numbers().items()}
    if folder is None:
        return metrics
    files = [_save_json(metrics, folder / "metrics.json")]
    if report != "off":
        about = {
            **about,
            "stage": stage,
            "splits": {role: {" + ".join(each.splits): len(each)} for role, each in sets.items()},
            "search": search,
            "restrict_to": str(restrict_to) if isinstance(restrict_to, Path) else restrict_to,
            "left_out": left_out,
            "version": version("bioscan-clip"),
        }
        files += _write(evaluation, about, folder, report, loggers)
    if show:
        sizes: dict[str, int] = {role: len(each) for role, each in sets.items()}
        print_accuracy(evaluation.numbers(), sizes)
        if restrict_to is not None:
            shown = ", ".join(
                f"{count:,} {role.replace('_', ' ')}" for role, count in left_out.items()
            )
            print(f"Restricted to {described(restrict_to)}. Left out: {shown}.")
        print(f"Saved in {folder}: {', '.join(path.name for path in files)}")
    return metrics


def evaluate_saved(
    path: Path,
    out: Path,
    *,
    report: Level = "full",
    search: Search = "exact",
    restrict_to: Restriction | None = None,
    linear_head: bool | None = None,
    clibd: bool = False,
    force: bool = False,
) -> dict[str, float]:
    """Score saved embeddings, without a model.

    Parameters
    ----------
    path : pathlib.Path
        See :func:`~projects.bioscan_clip.reports.saved_embeddings.load_embeddings`.
    out : pathlib.Path
        Folder for the files; made if missing.
    report, search, restrict_to, linear_head
        As for :func:`evaluate_and_report`.
    clibd : bool, default=False
        Whether to write the embeddings as CLIBD's evaluation script reads them, too.
    force : bool, default=False
        Whether an evaluation that is in `out` may be replaced.

    Returns
    -------
    dict of str to float
        As :func:`evaluate_and_report`.

    Raises
    ------
    ValueError
        If `out` is the folder of the embeddings, or no folder, or they cannot be scored.
    FileNotFoundError, FileExistsError
        If there are none, or `out` holds an evaluation and not `force`.
    """
    source = path if path.is_dir() else path.parent
    if out.resolve() == source.resolve():
        raise ValueError(
            f"{out} is where the embeddings are, whose own metrics and report would be replaced; "
            "name another folder."
        )
    check_output(out / "metrics.json", force=force)
    sets, stage = load_embeddings(path)
    about = read_about(source)
    if clibd:
        written = save_clibd(sets, stage, out)
        print(f"Saved for CLIBD in {out}: {', '.join(file.name for file in written)}")
    return evaluate_and_report(
        sets,
        stage,
        out,
        about=about,
        report=report,
        search=search,
        restrict_to=restrict_to,
        linear_head=linear_head,
    )


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


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Choose the numbers that papers report: the pairs of `PAIRS`, micro and macro, at top 1.

    Parameters
    ----------
    metrics : mapping of str to float
        As :func:`evaluate_and_report` names them.

    Returns
    -------
    dict of str to float
        Some of them.
    """
    pairs = {f"{query}_to_{key}" for query, key in PAIRS}
    chosen = {}
    for name, value in metrics.items():
        _, pair, _, average, k, _ = name.split("/")
        if pair in pairs and average in ("micro", "macro") and k == "top1":
            chosen[name] = value
    return chosen


def print_accuracy(
    numbers: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print top-1 accuracy in percent of the pairs that papers report.

    Parameters
    ----------
    numbers : mapping of str to float
        As :func:`~projects.bioscan_clip.scoring.evaluation.evaluate_embeddings` names them.
    sizes : mapping of str to int, optional
        Numbers of specimens by role, for the title, which names those of keys and of the table's
        queries.
    console : rich.console.Console, optional
        Where to; standard output if None.
    """
    title = "Top-1 accuracy in percent"
    if sizes:
        named = [f"{sizes[role]:,} {role}" for role in ("keys", *_SPLITS) if role in sizes]
        title += f" ({', '.join(named)})"
    table = Table(title=title, title_justify="left")
    for heading in ("query to key", "average", "split"):
        table.add_column(heading)
    for rank in RANKS:
        table.add_column(rank, justify="right")
    for query, key in PAIRS:
        for average in ("micro", "macro"):
            for split in _SPLITS:
                name = f"{query}_to_{key}/{split}/{average}/top1"
                values = [numbers.get(f"{name}/{rank}") for rank in RANKS]
                if any(value is not None for value in values):
                    cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
                    table.add_row(f"{query} to {key}", average, split, *cells)
        table.add_section()
    (console or Console()).print(table)


def _write(
    evaluation: Evaluation,
    about: Mapping[str, Any],
    folder: Path,
    report: Level,
    loggers: Sequence[Any],
) -> list[Path]:
    """Write tables and the page, and log what they show."""
    # Plots take a second to import, which those who do not ask for a page should not wait for.
    from projects.bioscan_clip.reports.page import log_page, write_page

    page, table = folder / "report.html", folder / "metrics.csv"
    files = [
        write_whole(table, lambda path: evaluation.metrics.to_csv(path, index=False)),
        save_predictions(evaluation, folder),
        _save_json(about, folder / "evaluation.json"),
    ]
    shown = write_page(evaluation, about, page, full=report == "full", published=load_published())
    if loggers:
        log_page(loggers, evaluation, page, shown)
    return [*files, page]


def _save_json(values: Mapping[str, Any], path: Path) -> Path:
    text = json.dumps(dict(sorted(values.items())), indent=1) + "\n"
    return write_whole(path, lambda unfinished: unfinished.write_text(text, "utf-8"))
