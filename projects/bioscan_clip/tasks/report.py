"""What an evaluation leaves behind: a file of metrics and a table in the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from projects.bioscan_clip.datasets.schema import RANKS

_PAIRS = ("rgb_to_dna", "rgb_to_rgb", "dna_to_dna")
_SPLITS = ("seen", "unseen", "harmonic")


def save_metrics(metrics: Mapping[str, float], folder: Path) -> Path:
    """Write ``metrics.json``, whole or not at all.

    Parameters
    ----------
    metrics : mapping of str to float
        Values by name.
    folder : pathlib.Path
        Where to; made if missing.

    Returns
    -------
    pathlib.Path
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(dict(sorted(metrics.items())), indent=1) + "\n")
    unfinished.replace(path)
    return path


def load_metrics(folder: Path) -> dict[str, float]:
    """Read a run's ``metrics.json``.

    Parameters
    ----------
    folder : pathlib.Path
        The run's output folder.

    Returns
    -------
    dict of str to float
        Values by name, without the stage (``val/`` or ``test/``) that names begin with.

    Raises
    ------
    FileNotFoundError
        If the folder holds no such file.
    ValueError
        If it is not JSON.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no metrics.json: either it is no run's output folder, or the run has "
            "not finished an evaluation."
        )
    metrics = json.loads(path.read_text())
    return {name.split("/", 1)[1]: value for name, value in metrics.items()}


def print_accuracy(
    results: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print top-1 accuracy in percent of the pairs that papers report.

    Parameters
    ----------
    results : mapping of str to float
        As :func:`~projects.bioscan_clip.tasks.evaluate_embeddings` names them.
    sizes : mapping of str to int, optional
        Numbers of specimens by role (``keys``, ``seen``, ``unseen``), for the title.
    console : rich.console.Console, optional
        Where to; standard output if None.
    """
    title = "Top-1 accuracy in percent"
    if sizes:
        title += " (" + ", ".join(f"{size:,} {role}" for role, size in sizes.items()) + ")"
    table = Table(title=title, title_justify="left")
    for heading in ("query to key", "average", "split"):
        table.add_column(heading)
    for rank in RANKS:
        table.add_column(rank, justify="right")
    for pair in _PAIRS:
        for average in ("micro", "macro"):
            for split in _SPLITS:
                values = [results.get(f"{pair}/{split}/{average}/top1/{rank}") for rank in RANKS]
                if any(value is not None for value in values):
                    cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
                    table.add_row(pair.replace("_", " "), average, split, *cells)
        table.add_section()
    (console or Console()).print(table)
