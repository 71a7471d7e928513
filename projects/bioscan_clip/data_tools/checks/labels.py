"""Whether taxonomic names can be read and agree with each other."""

from collections.abc import Iterator, Mapping
from functools import partial

import h5py
import numpy as np
import pandas as pd

from projects.bioscan_clip.data_tools.checks.columns import (
    Block,
    BoolArray,
    IntArray,
    rows_with_problems,
    text_at,
)
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem
from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

_EXAMPLES = 3
_NAMES_LOOKED_AT = 50
_GENUS, _SPECIES = RANKS.index("genus"), RANKS.index("species")
_CORRECT = "correct the labels"
_PLURALS = {"family": "families", "genus": "genera"}

_NO_GENUS = Problem(
    "labels",
    "warning",
    "a species is given, but its genus is unknown",
    "fill in the genus, usually the first word of the species",
)


def check_names(split: str, columns: Mapping[str, h5py.Dataset]) -> list[Finding]:
    """Check that the names of a split, one column per rank, are plain text."""
    findings = []
    for rank in RANKS:
        rows_with = rows_with_problems({rank: columns[rank]}, partial(_inspect_names, rank))
        for problem, rows in rows_with.items():
            names = dict.fromkeys(text_at(columns[rank], rows[:_NAMES_LOOKED_AT]))
            findings += problem.at(split, rows, list(names))
    return findings


def _inspect_names(rank: str, block: Block) -> dict[Problem, BoolArray]:
    names = block[rank]
    width = max(names.dtype.itemsize, 1)
    letters = names.astype(f"S{width}").view(np.uint8).reshape(len(names), width)
    foreign: BoolArray = (letters > 127).any(axis=1)
    broken = np.zeros_like(foreign)
    broken[foreign] = [not _is_utf8(name) for name in names[foreign]]
    return {_undecodable(rank): broken, _outside_ascii(rank): foreign & ~broken}


def _undecodable(rank: str) -> Problem:
    return Problem(
        "labels",
        "warning",
        f"the {rank} name is not valid UTF-8",
        "find out how the metadata were encoded, and write the names in UTF-8",
    )


def _outside_ascii(rank: str) -> Problem:
    return Problem(
        "labels",
        "warning",
        f"the {rank} name has characters outside ASCII",
        "check that they are meant: scientific names are written with the letters a to z",
    )


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_ranks(split: str, labels: IntArray) -> list[Finding]:
    """Check that no species of a split lacks its genus; `labels` are codes, int64, ``(N, 4)``."""
    wrong = (labels[:, _SPECIES] != UNKNOWN) & (labels[:, _GENUS] == UNKNOWN)
    return _NO_GENUS.at(split, np.flatnonzero(wrong))


def check_lineages(
    splits: Mapping[str, Mapping[str, h5py.Dataset]], labels: Mapping[str, IntArray]
) -> Iterator[Finding]:
    """Check over all splits that each taxon has one parent.

    A genus name may rightly stand in two families, as zoology and botany, and more rarely zoology
    itself, used some names twice. A species' name holds its genus, so that two are a mistake.

    Parameters
    ----------
    splits : mapping of str to mapping of str to h5py.Dataset
        Columns of each split.
    labels : mapping of str to numpy.ndarray
        Codes of the names in each split, int64, shape ``(N, 4)``.
    """
    for child in range(len(RANKS) - 1, 0, -1):
        met = [_parents(split, codes, child) for split, codes in labels.items()]
        if not met:
            return
        pairs = pd.concat(met).drop_duplicates(["child", "parent"])
        doubtful = pairs[pairs.duplicated("child", keep=False)]
        if doubtful.empty:
            continue
        groups = [group for _, group in doubtful.groupby("child", sort=False)]
        examples = [_describe(splits, group, child) for group in groups[:_EXAMPLES]]
        rank, above = RANKS[child], RANKS[child - 1]
        plural = _PLURALS.get(rank, rank)
        several = len(groups) != 1
        message = (
            f"{len(groups):,} {plural if several else rank} stand{'s'[several:]} in more than one "
            f"{above}"
        )
        yield Finding(
            "labels",
            "error" if rank == "species" else "warning",
            message,
            _CORRECT if rank == "species" else f"{_CORRECT}, unless the name is rightly used twice",
            count=len(groups),
            names=tuple(examples),
        )


def _parents(split: str, codes: IntArray, child: int) -> pd.DataFrame:
    """Return the distinct pairs of taxa of two neighbouring ranks, and the first row of each."""
    rows = np.flatnonzero((codes[:, child] != UNKNOWN) & (codes[:, child - 1] != UNKNOWN))
    pairs = pd.DataFrame(
        {"child": codes[rows, child], "parent": codes[rows, child - 1], "row": rows, "split": split}
    )
    return pairs.drop_duplicates(["child", "parent"])


def _describe(
    splits: Mapping[str, Mapping[str, h5py.Dataset]], group: pd.DataFrame, child: int
) -> str:
    """Return a sentence part such as ``Aedes albopictus: Aedes (all_keys row 3), Culex (…)``."""
    parts = []
    for split, row in zip(group["split"], group["row"], strict=True):
        parent = text_at(splits[split][RANKS[child - 1]], np.array([row]))[0]
        parts.append(f"{parent} in {split} row {row}")
    name = text_at(splits[split][RANKS[child]], np.array([row]))[0]
    return f"{name}: {', '.join(parts)}"
