"""Runs that were evaluated, as their output folders tell of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from yaml import YAMLError

_METRICS = "metrics.json"
_CONFIG = Path(".hydra", "config.yaml")

ROLES: Final = ("keys", "seen", "unseen")
"""What the specimens of a split are to an evaluation."""


@dataclass(frozen=True)
class Run:
    """One evaluated run. What its folder does not say is None, or missing from a mapping.

    Attributes
    ----------
    folder : pathlib.Path
        Its output folder.
    stage : str
        ``test``, or ``val`` where only validation was scored.
    metrics : mapping of str to float
        Numbers of that stage by name, without the stage in front.
    seed : int or None
        Seed of the training whose weights were scored.
    experiment : str or None
        Name of the experiment.
    file : str or None
        Name of the data file.
    path_variable : str or None
        Environment variable that named the data file, such as ``BIOSCAN_1M_HDF5``.
    splits : mapping of str to str
        Splits scored, by role (``keys``, ``seen``, ``unseen``).
    sizes : mapping of str to int
        Number of specimens by role.
    """

    folder: Path
    stage: str
    metrics: Mapping[str, float]
    seed: int | None
    experiment: str | None
    file: str | None
    path_variable: str | None
    splits: Mapping[str, str]
    sizes: Mapping[str, int]

    def facts(self) -> dict[str, str]:
        """Return what runs must share to be averaged, as far as it is known."""
        known = {"stage": self.stage, "data file": self.file, "data": self.path_variable}
        for role in ROLES:
            known[f"split of {role}"] = self.splits.get(role)
            known[f"number of {role}"] = f"{self.sizes[role]:,}" if role in self.sizes else None
        return {name: value for name, value in known.items() if value is not None}


def collect_runs(folders: Iterable[Path]) -> list[Run]:
    """Read runs.

    Parameters
    ----------
    folders : iterable of pathlib.Path
        Output folders of runs, which hold ``metrics.json``, or folders that hold such folders at
        any depth, as a Hydra ``--multirun`` makes them. A run that is found twice counts once;
        ``multirun.yaml``, which ``sweep/*`` names too, does not count.

    Returns
    -------
    list of Run
        In the order given; within a folder by name.

    Raises
    ------
    FileNotFoundError
        If there is no ``metrics.json`` in a folder or below.
    ValueError
        If a file of a run cannot be understood.
    """
    found = {run.resolve(): run for folder in folders for run in _run_folders(folder)}
    return [_read_run(folder) for folder in found.values()]


def unfinished_runs(folders: Iterable[Path]) -> list[Path]:
    """Return folders of runs, below the given ones, that hold no ``metrics.json``."""
    return sorted(
        run
        for folder in folders
        if not (folder / _METRICS).is_file()
        for run in {config.parent.parent for config in folder.rglob(str(_CONFIG))}
        if not (run / _METRICS).is_file()
    )


def refuse_mixed(runs: Sequence[Run]) -> None:
    """Raise an error if runs differ in data, stage, splits or numbers of specimens.

    Raises
    ------
    ValueError
        Naming which runs differ in what.
    """
    by_fact: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for fact, value in run.facts().items():
            by_fact[fact][value].append(str(run.folder))
    differences = [
        f"{fact}: " + ", ".join(f"{value} ({' '.join(who)})" for value, who in values.items())
        for fact, values in by_fact.items()
        if len(values) > 1
    ]
    if differences:
        raise ValueError(
            f"These runs cannot be averaged, because they differ in {'; '.join(differences)}. "
            "Give runs of the same evaluation only."
        )


def shared_facts(runs: Iterable[Run]) -> dict[str, str]:
    """Return what runs that agree tell together."""
    return {name: value for run in runs for name, value in run.facts().items()}


def _run_folders(folder: Path) -> list[Path]:
    if (folder / _METRICS).is_file():
        return [folder]
    if folder.name == "multirun.yaml":
        return []
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    below = sorted(path.parent for path in folder.rglob(_METRICS))
    if not below:
        raise FileNotFoundError(
            f"{folder} holds no {_METRICS}, nor does a folder in it: either it is no run's output "
            "folder, or the run has not finished an evaluation."
        )
    return below


def _read_run(folder: Path) -> Run:
    numbers = _read_json(folder / _METRICS)
    if not numbers or not all(isinstance(value, int | float) for value in numbers.values()):
        raise ValueError(f"{folder / _METRICS} holds no numbers by name: it is no run's.")
    stage = "test" if any(name.startswith("test/") for name in numbers) else "val"
    evaluation = _read_json(folder / "evaluation.json")
    config = _read_config(folder)
    datasets = _datasets(config, stage)
    scored: dict[str, dict[str, int]] = evaluation.get("splits") or {}
    return Run(
        folder=folder,
        stage=stage,
        metrics={
            name.removeprefix(f"{stage}/"): float(value)
            for name, value in numbers.items()
            if name.startswith(f"{stage}/")
        },
        seed=_scored_seed(evaluation, config) if stage == "test" else config.get("seed"),
        experiment=evaluation.get("experiment") or config.get("experiment_name"),
        file=evaluation.get("file"),
        path_variable=datasets.get("keys", {}).get("path_variable"),
        splits={role: each["split"] for role, each in datasets.items() if "split" in each}
        | {role: " + ".join(sizes) for role, sizes in scored.items()},
        sizes={role: sum(sizes.values()) for role, sizes in scored.items()},
    )


def _scored_seed(evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Return the seed that a checkpoint was trained with; an evaluation's own changes nothing."""
    checkpoint = evaluation.get("checkpoint") or config.get("resume_from_checkpoint")
    if checkpoint:  # <run>/checkpoints/best.ckpt
        training = _read_config(Path(checkpoint).parent.parent)
        if training.get("seed") is not None:
            return int(training["seed"])
    seeds = [evaluation.get("seed"), config.get("seed")]
    return next((int(seed) for seed in seeds if seed is not None), None)


def _datasets(config: Mapping[str, Any], stage: str) -> dict[str, dict[str, Any]]:
    """Return how a run's config describes the data of each role."""
    of_stage = (config.get("datasets") or {}).get(stage) or {}
    return {role: of_stage[f"{role}_split"] for role in ROLES if of_stage.get(f"{role}_split")}


def _read_json(path: Path) -> dict[str, Any]:
    """Return a file's object; an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); repeat the evaluation.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; repeat the evaluation.")
    return values


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the config that Hydra saved, interpolations as they stand; empty if there is none."""
    path = folder / _CONFIG
    if not path.is_file():
        return {}
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not YAML ({reason}); restore it or delete it.") from error
    return {str(name): value for name, value in config.items()} if isinstance(config, dict) else {}
