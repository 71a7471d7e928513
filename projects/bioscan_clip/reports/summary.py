"""Mean and standard deviation over runs, and what stands between them and published figures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from projects.bioscan_clip.reports.published import LAYOUT, Published, Source, load_published
from projects.bioscan_clip.reports.runs import Run, refuse_mixed, shared_facts


@dataclass(frozen=True)
class Summary:
    """What runs say together of one pair of features.

    Attributes
    ----------
    query, key : str
        Features of queries and keys.
    runs : sequence of Run
        The runs.
    figures : pandas.DataFrame
        Top-1 accuracy in percent, indexed as :data:`LAYOUT`: columns ``mean``, ``std`` (with
        n - 1 in the denominator; NaN of one run) and ``n`` (runs that have the number).
    sources : sequence of Source
        Published figures of the same pair.
    on_published_data : bool or None
        Whether the runs are on the data of the published figures; None if nothing tells.
    caveats : sequence of str
        Where data and splits differ from those of the published figures, one sentence or two each.
    notes : sequence of str
        What else a reader must know of the runs.
    """

    query: str
    key: str
    runs: Sequence[Run]
    figures: pd.DataFrame
    sources: Sequence[Source]
    on_published_data: bool | None
    caveats: Sequence[str]
    notes: Sequence[str]

    def difference(self, source: Source) -> pd.Series:
        """Return the runs' mean minus a source's figure, in percentage points."""
        return self.figures["mean"] - source.percent


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
    refuse_mixed(runs)
    figures = _figures(runs, query, key)
    published = load_published()
    is_published_pair = (query, key) == (published.query, published.key)
    same_data = _on_published_data(runs, published)
    return Summary(
        query=query,
        key=key,
        runs=runs,
        figures=figures,
        sources=published.sources if is_published_pair else (),
        on_published_data=same_data,
        caveats=[
            *_caveats_on_data(runs, published, same_data),
            *_caveats_on_splits(runs, published),
        ]
        if is_published_pair
        else [f"Figures are published for {published.query} to {published.key} only."],
        notes=[
            *_notes_on_stage(runs),
            *_notes_on_seeds(runs),
            *_notes_on_missing(figures, len(runs)),
        ],
    )


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


def _on_published_data(runs: Sequence[Run], published: Published) -> bool | None:
    for run in runs:  # They agree in what they tell.
        if "keys" in run.sizes:
            return run.sizes["keys"] == published.key_specimens
    if any(run.path_variable not in (None, published.path_variable) for run in runs):
        return False
    return None


def _caveats_on_data(
    runs: Sequence[Run], published: Published, same_data: bool | None
) -> Iterator[str]:
    if same_data is False:
        facts = shared_facts(runs)
        name = facts.get("data file") or f"the data of {facts.get('data', 'another file')}"
        keys = f" with {facts['number of keys']} keys" if "number of keys" in facts else ""
        yield (
            f"Other data: these runs are on {name}{keys}, the published figures on "
            f"{published.data} with {published.key_specimens:,} keys. The differences do not "
            "compare models."
        )
    elif same_data is None:
        yield (
            "Unknown data: these runs do not tell how many keys they had; the published figures "
            f"are of {published.data} with {published.key_specimens:,} keys."
        )


def _caveats_on_splits(runs: Sequence[Run], published: Published) -> Iterator[str]:
    facts = shared_facts(runs)
    ours = [facts.get(f"split of {role}", "?") for role in ("seen", "unseen")]
    others = defaultdict(list)
    for source in published.sources:
        theirs = [source.splits[role] for role in ("seen", "unseen")]
        if theirs != ours:
            others[" and ".join(theirs)].append(source.name)
    where = "splits that they do not tell" if "?" in ours else " and ".join(ours)
    for theirs_named, names in others.items():
        yield (
            f"Other splits: these runs are scored on {where}; on {theirs_named}: "
            f"{'; '.join(names)}."
        )


def _notes_on_stage(runs: Sequence[Run]) -> Iterator[str]:
    if runs[0].stage == "val":
        yield (
            "Validation: these are accuracies of the last validation epoch of training; "
            "job_type=eval scores a checkpoint on the test splits."
        )


def _notes_on_seeds(runs: Sequence[Run]) -> Iterator[str]:
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


def _notes_on_missing(figures: pd.DataFrame, n_runs: int) -> Iterator[str]:
    missing = figures.index[figures["n"] < n_runs]
    if len(missing):
        names = "; ".join(
            f"{', '.join(cell)} ({figures.loc[cell, 'n']} of {n_runs})" for cell in missing
        )
        yield f"Missing in some runs, which the means leave out: {names}."
