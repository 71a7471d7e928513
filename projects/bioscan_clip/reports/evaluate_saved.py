"""Score saved embeddings, without a model."""

from pathlib import Path
from typing import Literal

from projects.bioscan_clip.reports.console import print_accuracy
from projects.bioscan_clip.reports.metrics_files import load_about
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings
from projects.bioscan_clip.reports.write import Level, write_report
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.scoring.restriction import Restriction


def evaluate_saved(
    path: Path,
    out: Path,
    report: Level = "full",
    search: Literal["exact", "approximate"] = "exact",
    restrict_to: Restriction | None = None,
) -> list[Path]:
    """Score saved embeddings, print a table and leave the files of an evaluation.

    Parameters
    ----------
    path : pathlib.Path
        See :func:`~projects.bioscan_clip.reports.saved_embeddings.load_embeddings`.
    out : pathlib.Path
        Folder of the files; made if missing.
    report, search, restrict_to
        As for :class:`~projects.bioscan_clip.tasks.TaxonomicClassification`.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    ValueError
        If `out` is the folder of the embeddings, or they cannot be scored.
    FileNotFoundError
        If there are none.
    """
    source = path if path.is_dir() else path.parent
    if out.resolve() == source.resolve():
        raise ValueError(
            f"{out} is where the embeddings are, whose own metrics and report would be replaced; "
            "name another folder."
        )
    sets = load_embeddings(path)
    if restrict_to is not None:
        sets = sets.restricted_to(restrict_to)
    evaluation = evaluate(
        sets.embeddings["keys"],
        sets.queries,
        search=search,
        tuning=sets.tuning,
        seen_key=sets.seen_key,
    )
    sizes: dict[str, int] = {role: len(values) for role, values in sets.embeddings.items()}
    about = {
        **load_about(source),
        "splits": {role: {_split(role, sets.stage): size} for role, size in sizes.items()},
        "search": search,
        "restrict_to": None if restrict_to is None else str(restrict_to),
    }
    files = write_report(evaluation, sets, about, out, report)
    roles: tuple[str, ...] = ("keys", "seen", "unseen")
    shown = {role: sizes[role] for role in roles if role in sizes}
    print_accuracy(evaluation.numbers(), shown)
    return files


def _split(role: str, stage: str) -> str:
    """Return the data file's name of the split that has a role."""
    if role == "keys":
        return "all_keys"
    return role.replace("tuning_", "val_") if "tuning" in role else f"{stage}_{role}"
