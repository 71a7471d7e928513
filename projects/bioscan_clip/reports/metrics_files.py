"""The numbers of an evaluation as files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd


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
    text = json.dumps(dict(sorted(metrics.items())), indent=1) + "\n"
    return write_whole(folder / "metrics.json", lambda path: path.write_text(text))


def save_table(metrics: pd.DataFrame, folder: Path) -> Path:
    """Write ``metrics.csv``: one row per number, with its confidence interval."""
    return write_whole(folder / "metrics.csv", lambda path: metrics.to_csv(path, index=False))


def save_about(about: Mapping[str, Any], folder: Path) -> Path:
    """Write ``evaluation.json``: what was evaluated."""
    text = json.dumps(dict(about), indent=1) + "\n"
    return write_whole(folder / "evaluation.json", lambda path: path.write_text(text))


def load_about(folder: Path) -> dict[str, Any]:
    """Read ``evaluation.json``; empty if there is none."""
    path = folder / "evaluation.json"
    about: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return about


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


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name first, so that a torn one is never taken for it.

    Parameters
    ----------
    path : pathlib.Path
        The file; its folder is made if missing.
    write : callable
        Writes the file that it is given.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    write(unfinished)
    unfinished.replace(path)
    return path
