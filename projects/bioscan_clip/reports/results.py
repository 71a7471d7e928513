"""Accuracies of evaluated runs: their mean and deviation, beside what others published."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError

from projects.bioscan_clip.datasets.schema import RANKS

LAYOUT: Final = pd.MultiIndex.from_product(
    [RANKS, ("micro", "macro"), ("seen", "unseen")], names=["level", "average", "split"]
)
"""What the published table holds: one number for each rank, average and split."""

ROLES: Final = ("keys", "seen", "unseen")
ALL_TAXA: Final = "all taxa"
AS_THEY_ARE: Final = "as they are"
SEEN_BIOSCAN: Final = (
    "* Has seen BIOSCAN: the photo encoder was pretrained on photos that are in BIOSCAN too, as "
    "BioCLIP's are, so that no species is unseen to it. Its figures of unseen species do not "
    "compare with those of other models."
)
"""What must be said of a model of which it is true."""

QUERY_OPTIONS: Final[Mapping[str, str]] = {
    "correct_barcodes": "barcodes corrected by those of the keys",
    "test_time_views": "photos averaged over flips and quarter turns",
}
"""Options of a test that change what queries are, and what they do."""

_PRETRAINED: Final[Mapping[Any, str]] = {True: "with BIOSCAN", False: "without BIOSCAN"}
_METRICS = "metrics.json"
_CONFIG = Path(".hydra", "config.yaml")


@dataclass(frozen=True)
class Source:
    """One publication's figures.

    Attributes
    ----------
    name : str
        Short, for a column or row of a table.
    title, url : str
        Who published them, and where.
    splits : mapping of str to str
        Split that was scored, by role (``seen``, ``unseen``).
    percent : pandas.Series
        Top-1 accuracy in percent, float64, indexed as :data:`LAYOUT`.
    """

    name: str
    title: str
    url: str
    splits: Mapping[str, str]
    percent: pd.Series


@dataclass(frozen=True)
class Published:
    """What was published of one pair of features on one data set; see ``published.yaml``."""

    data: str
    path_variable: str
    query: str
    key: str
    key_specimens: int
    sources: Sequence[Source]


@dataclass(frozen=True)
class Run:
    """One evaluated run, as its output folder tells of it.

    Attributes
    ----------
    folder : pathlib.Path
        Its output folder.
    metrics : mapping of str to float
        Numbers by name, without the stage in front; those of the test where there are any.
    seed : int or None
        Seed of the training whose weights were scored; None if unknown.
    experiment : str or None
        Name of the experiment; None if unknown.
    facts : mapping of str to str or int
        What runs must share to be averaged, as far as known: ``stage``, ``data file``, ``data``
        (the environment variable that named the file), ``weights``, ``restricted to``,
        ``pretrained`` (with or without BIOSCAN), ``queries`` (how they are prepared), and of every
        role ``split of ...`` and ``number of ...``.
    """

    folder: Path
    metrics: Mapping[str, float]
    seed: int | None
    experiment: str | None
    facts: Mapping[str, str | int]


@dataclass(frozen=True)
class Summary:
    """What runs say together of one pair of features.

    Attributes
    ----------
    query, key : str
        Features of queries and keys.
    runs : sequence of Run
        The runs.
    facts : mapping of str to str
        What they share; see :class:`Run`.
    figures : pandas.DataFrame
        Top-1 accuracy in percent, indexed as :data:`LAYOUT`: columns ``mean``, ``std`` (with
        n - 1 in the denominator; NaN of one run) and ``n`` (runs that have the number).
    sources : sequence of Source
        Published figures of the same pair.
    caveats : sequence of str
        Where data and splits differ from those of the published figures, one sentence or two each.
    notes : sequence of str
        What else a reader must know of the runs.
    """

    query: str
    key: str
    runs: Sequence[Run]
    facts: Mapping[str, str]
    figures: pd.DataFrame
    sources: Sequence[Source]
    caveats: Sequence[str]
    notes: Sequence[str]


def load_published() -> Published:
    """Read the published figures."""
    file = OmegaConf.load(Path(__file__).with_name("published.yaml"))
    values: Any = OmegaConf.to_container(file)
    for source in values["sources"]:
        percent = source["percent"]
        source["percent"] = pd.Series([percent[rank][a][b] for rank, a, b in LAYOUT], LAYOUT)
    return Published(**values | {"sources": [Source(**each) for each in values["sources"]]})


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
        If a file of a run cannot be understood, or an accuracy is not within 0 and 1.
    """
    found = {run.resolve(): run for folder in folders for run in _run_folders(folder)}
    return [_read_run(folder) for folder in found.values()]


def unfinished_runs(folders: Iterable[Path]) -> list[Path]:
    """Return folders of runs, below the given ones, that hold no ``metrics.json``."""
    configs = {path for folder in folders for path in folder.rglob(str(_CONFIG))}
    runs = {config.parent.parent for config in configs}
    return sorted(run for run in runs if not (run / _METRICS).is_file())


def summarize(runs: Sequence[Run], query: str = "rgb", key: str = "dna") -> Summary:
    """Average runs and set them beside what was published.

    Parameters
    ----------
    runs : sequence of Run
        At least one; all of the same data, stage and splits.
    query, key : str
        Features of queries and keys.

    Raises
    ------
    ValueError
        If the runs differ in what was evaluated, or none has this pair.
    """
    facts = _shared_facts(runs)
    figures = _figures(runs, query, key)
    published = load_published()
    same_data = _on_published_data(facts, published)
    sources: Sequence[Source] = ()
    if (query, key) != (published.query, published.key):
        caveats = [f"Figures are published for {published.query} to {published.key} only."]
    elif len(runs) == 1 and same_data is False:
        caveats = ["Not compared with published figures, which are of other data."]
    else:
        sources = published.sources
        caveats = list(_caveats(facts, published, same_data))
    notes = list(_notes(runs, facts, figures))
    return Summary(query, key, runs, facts, figures, sources, caveats, notes)


def _shared_facts(runs: Sequence[Run]) -> dict[str, str]:
    """Return what runs that agree tell together.

    Raises
    ------
    ValueError
        If they do not agree, naming which runs differ in what.
    """
    by_fact: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for fact, value in run.facts.items():
            text = f"{value:,}" if isinstance(value, int) else value
            by_fact.setdefault(fact, {}).setdefault(text, []).append(str(run.folder))
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
    return {fact: next(iter(values)) for fact, values in by_fact.items()}


def _figures(runs: Sequence[Run], query: str, key: str) -> pd.DataFrame:
    names = [f"{query}_to_{key}/{split}/{average}/top1/{level}" for level, average, split in LAYOUT]
    values = pd.DataFrame([run.metrics for run in runs]).reindex(columns=names) * 100
    if values.isna().all(axis=None):
        pairs = {name.split("/")[0] for run in runs for name in run.metrics if "/top1/" in name}
        there = ", ".join(sorted(pair.replace("_to_", " to ") for pair in pairs)) or "none"
        raise ValueError(
            f"No run has accuracies of {query} to {key}. Pairs there are: {there}. "
            "Choose one with --query and --key."
        )
    figures = pd.DataFrame({"mean": values.mean(), "std": values.std(ddof=1), "n": values.count()})
    return figures.set_index(LAYOUT)


def _on_published_data(facts: Mapping[str, str], published: Published) -> bool | None:
    if facts.get("restricted to", ALL_TAXA) != ALL_TAXA:
        return False
    if "number of keys" in facts:
        return facts["number of keys"] == f"{published.key_specimens:,}"
    return None if facts.get("data") in (None, published.path_variable) else False


def _caveats(
    facts: Mapping[str, str], published: Published, same_data: bool | None
) -> Iterator[str]:
    theirs = f"{published.data} with {published.key_specimens:,} keys"
    if same_data is False:
        name = facts.get("data file") or f"the data of {facts.get('data', 'another file')}"
        keys = f" with {facts['number of keys']} keys" if "number of keys" in facts else ""
        yield (
            f"Other data: these runs are on {name}{keys}, the published figures on {theirs}. The "
            "differences do not compare models."
        )
    elif same_data is None:
        yield (
            "Unknown data: these runs do not tell how many keys they had; the published figures "
            f"are of {theirs}."
        )
    ours = [facts.get(f"split of {role}", "?") for role in ("seen", "unseen")]
    where = "splits that they do not tell" if "?" in ours else " and ".join(ours)
    others: dict[str, list[str]] = {}
    for source in published.sources:
        scored = [source.splits["seen"], source.splits["unseen"]]
        if scored != ours:
            others.setdefault(" and ".join(scored), []).append(source.name)
    for splits, names in others.items():
        yield f"Other splits: these runs are scored on {where}; on {splits}: {'; '.join(names)}."


def _notes(runs: Sequence[Run], facts: Mapping[str, str], figures: pd.DataFrame) -> Iterator[str]:
    if facts["weights"] == "untrained":
        yield "Untrained: random weights were scored, so that these figures are those of chance."
    if facts.get("restricted to", ALL_TAXA) != ALL_TAXA:
        yield f"Restricted to {facts['restricted to']}: only these taxa were scored and predicted."
    if facts.get("pretrained") == _PRETRAINED[True]:
        yield SEEN_BIOSCAN
    if facts.get("queries", AS_THEY_ARE) != AS_THEY_ARE:
        yield f"Queries: {facts['queries']}; published figures are of queries as they are."
    if facts["stage"] == "val":
        yield (
            "Validation: these are accuracies of the last validation epoch of training; "
            "job_type=eval scores a checkpoint on the test splits."
        )
    counts = Counter(run.seed for run in runs)
    unknown = counts.pop(None, 0)
    repeated = [f"{seed} ({count} runs)" for seed, count in sorted(counts.items()) if count > 1]
    if repeated:
        yield (
            f"Repeated seeds: {', '.join(repeated)}. Runs of one seed are not independent, or "
            "differ in more than the seed."
        )
    if unknown and len(runs) > 1:
        yield f"Unknown seeds: {unknown} of {len(runs)} runs do not tell theirs."
    missing = figures.index[figures["n"] < len(runs)]
    if len(missing):
        names = (f"{', '.join(cell)} ({figures.loc[cell, 'n']} of {len(runs)})" for cell in missing)
        yield f"Missing in some runs, which the means leave out: {'; '.join(names)}."


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
    stage, metrics = _read_metrics(folder / _METRICS)
    config = read_config(folder)
    configured = (config.get("datasets") or {}).get(stage) or {}
    data = {role: configured.get(f"{role}_split") or {} for role in ROLES}
    about = read_about(folder)
    # With report=off there is but the config.
    task = config.get("task") or {}
    wanted = stage == "test" and bool(task.get("evaluate_untrained"))
    untrained = wanted and not config.get("resume_from_checkpoint")
    tests = (task.get("evaluation_tasks") or {}).values() if stage == "test" else ()
    told = [about] if about else [each.get("task") or {} for each in tests if each]
    try:
        sizes = {role: sum(splits.values()) for role, splits in about.get("splits", {}).items()}
        facts = {
            "stage": stage,
            "data file": about.get("file"),
            "data": data["keys"].get("path_variable"),
            "weights": "untrained" if about.get("untrained", untrained) else "trained",
            "pretrained": _PRETRAINED.get(about.get("has_seen_bioscan")),
            "restricted to": taxa_in_words(about.get("restrict_to")) if about else None,
            "queries": queries_in_words(*told),
        }
        facts |= {f"split of {role}": data[role].get("split") for role in ROLES}
        facts |= {f"split of {role}": " + ".join(about["splits"][role]) for role in sizes}
        facts |= {f"number of {role}": sizes.get(role) for role in ROLES}
        seed = about.get("seed")
        seed = _trained_seed(config, stage) if seed is None else int(seed)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'evaluation.json'} is not as an evaluation writes it ({error}); repeat the "
            "evaluation."
        ) from error
    known = {
        name: value if isinstance(value, int) else str(value)
        for name, value in facts.items()
        if value is not None
    }
    experiment = about.get("experiment") or config.get("experiment_name")
    return Run(folder, metrics, seed, experiment and str(experiment), known)


def _read_metrics(path: Path) -> tuple[str, dict[str, float]]:
    """Return a run's stage, and its numbers without the stage in front."""
    numbers = _read(path, _parse_json)
    stage = "test" if any(name.startswith("test/") for name in numbers) else "val"
    of_stage = {name: value for name, value in numbers.items() if name.startswith(f"{stage}/")}
    if not of_stage or not all(type(value) in (int, float) for value in of_stage.values()):
        raise ValueError(f"{path} holds no numbers by name: it is no run's.")
    for name, value in of_stage.items():
        if not 0 <= value <= 1 and {"micro", "macro"} & set(name.split("/")):
            raise ValueError(
                f"{path}: {name} is {value}, but accuracies lie from 0 to 1; repeat the evaluation."
            )
    return stage, {name.removeprefix(f"{stage}/"): value for name, value in of_stage.items()}


def _trained_seed(config: Mapping[str, Any], stage: str) -> int | None:
    """Return the seed of the training; that of an evaluation changes nothing."""
    checkpoint = config.get("resume_from_checkpoint")
    if stage == "test" and checkpoint:  # <run>/checkpoints/best.ckpt
        config = read_config(Path(checkpoint).parent.parent)
    seed = config.get("seed")
    return None if seed is None else int(seed)


def read_about(folder: Path) -> dict[str, Any]:
    """Return what was evaluated, as ``evaluation.json`` says; nothing if there is none.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    return _read(folder / "evaluation.json", _parse_json)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config that Hydra saved, interpolations as they stand; nothing if there is none.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    return _read(
        folder / _CONFIG,
        lambda path: OmegaConf.to_container(OmegaConf.load(path), resolve=False),
    )


def _parse_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _read(path: Path, parse: Callable[[Path], Any]) -> dict[str, Any]:
    """Return what a file holds by name; nothing if there is no such file."""
    try:
        values = parse(path) if path.is_file() else {}
    except (ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read ({reason}); repeat the evaluation.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no values by name; repeat the evaluation.")
    return values


def queries_in_words(*told: Mapping[str, Any]) -> str:
    """Return how an evaluation's queries are prepared, as any of `told` says."""
    done = [words for option, words in QUERY_OPTIONS.items() if any(t.get(option) for t in told)]
    return " and ".join(done) or AS_THEY_ARE


def taxa_in_words(restriction: Mapping[str, str | Sequence[str]] | str | None) -> str:
    """Return what an evaluation was restricted to, such as "the order Diptera"; else "all taxa"."""
    if isinstance(restriction, Mapping):
        names = {
            rank: taxa if isinstance(taxa, str) else " or ".join(taxa)
            for rank, taxa in restriction.items()
        }
        return " and ".join(f"the {rank} {taxa}" for rank, taxa in names.items())
    return f"the taxa in {restriction}" if restriction else ALL_TAXA
