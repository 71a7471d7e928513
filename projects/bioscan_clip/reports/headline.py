"""What was evaluated, and the numbers to show first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.wording import MAIN_PAIRS, pair_name
from projects.bioscan_clip.scoring.evaluation import Evaluation

_ROLES = {"keys": "keys", "seen": "queries of seen species", "unseen": "queries of unseen species"}


def title(about: Mapping[str, Any]) -> str:
    """Return what to call an evaluation: its experiment, or else its checkpoint or data file."""
    checkpoint = about.get("checkpoint")
    name = about.get("experiment") or (checkpoint and Path(checkpoint).name) or about.get("file")
    return str(name or "Evaluation")


def facts(about: Mapping[str, Any]) -> dict[str, str]:
    """Say what was evaluated.

    Parameters
    ----------
    about : mapping
        What ``evaluation.json`` holds; anything may be missing.

    Returns
    -------
    dict of str to str
        Values by label, in the order to show.
    """
    found: dict[str, Any] = {}
    if about.get("file"):
        size = about.get("file_size")
        found["data"] = about["file"] + (f" ({size / 1e9:,.2f} GB)" if size else "")
    for role, label in _ROLES.items():
        splits = about.get("splits", {}).get(role, {})
        found[label] = ", ".join(f"{name} ({size:,})" for name, size in splits.items())
    found |= {
        "checkpoint": about.get("checkpoint"),
        "restricted to": _taxa(about.get("restrict_to")),
        "search": about.get("search"),
        "seed": about.get("seed"),
        "version": about.get("version"),
    }
    return {label: str(value) for label, value in found.items() if value not in (None, "")}


def key_figures(evaluation: Evaluation) -> dict[str, str]:
    """Return the numbers to show first, as text by label.

    These are the numbers of specimens, and species accuracy (or that of the finest rank that has
    one) of the first pair that papers report.
    """
    figures = {"keys": f"{len(evaluation.keys):,}"}
    figures |= {
        f"queries of {split} species": f"{len(queries):,}"
        for split, queries in evaluation.queries.items()
    }
    metrics = evaluation.metrics
    micro = metrics[(metrics["k"] == 1) & (metrics["average"] == "micro")]
    for pair in MAIN_PAIRS:
        of_pair = micro[(micro["query"] == pair[0]) & (micro["key"] == pair[1])]
        for rank in reversed(RANKS):
            rows = of_pair[of_pair["level"] == rank]
            if len(rows):
                return figures | _accuracies(rows, f"{rank}, {pair_name(pair)}")
    return figures


def missing(evaluation: Evaluation) -> list[str]:
    """Say what data an evaluation lacked, which its page therefore does not show."""
    sentences = [
        f"There were no queries of {split} species."
        for split in ("seen", "unseen")
        if len(evaluation.queries.get(split, ())) == 0
    ]
    wanted = {"rgb": "photos", "dna": "barcodes"}
    sentences += [
        f"No {name} were embedded."
        for modality, name in wanted.items()
        if modality not in evaluation.keys.modalities
    ]
    unnamed = [
        rank
        for position, rank in enumerate(RANKS)
        if not any(
            bool((each.labels[:, position] >= 0).any()) for each in evaluation.queries.values()
        )
    ]
    if unnamed:
        sentences.append(f"No query has a known {' or '.join(unnamed)}.")
    return sentences


def _taxa(restriction: Any) -> str | None:
    if isinstance(restriction, Mapping):
        return " and ".join(
            f"{rank} {taxa if isinstance(taxa, str) else ' or '.join(taxa)}"
            for rank, taxa in restriction.items()
        )
    return None if restriction is None else str(restriction)


def _accuracies(rows: pd.DataFrame, label: str) -> dict[str, str]:
    by_split = rows.set_index("split")["value"]
    return {
        f"{label}, {split}": f"{by_split[split]:.1%}"
        for split in ("seen", "unseen")
        if split in by_split.index
    }
