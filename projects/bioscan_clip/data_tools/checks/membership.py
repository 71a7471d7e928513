"""Whether splits hold the specimens and species that they should, and no others."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final

import h5py
import numpy as np

from projects.bioscan_clip.data_tools.checks.columns import IntArray, text_at
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem
from projects.bioscan_clip.data_tools.splits import BASE_SPLITS, SINGLETON, UNIONS
from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

# Of which kinds of specimens each split consists. Splits that share no kind are disjoint, a split
# whose kinds are among another's lies in it, and one whose kinds others cover holds nothing else.
_KINDS: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "BIOSCAN-1M": {
        name: frozenset(parts)
        for name, parts in ({base: (base,) for base in BASE_SPLITS} | UNIONS).items()
    },
    "BIOSCAN-5M": {
        name: frozenset(parts)
        for name, parts in {
            "no_split_and_seen_train": ("pretrain", "train"),
            "seen_keys": ("train",),
            "unseen_keys": ("unseen_keys",),
            "all_keys": ("train", "unseen_keys"),
            "val_seen": ("val_seen",),
            "val_unseen": ("val_unseen",),
            "test_seen": ("test_seen",),
            "test_unseen": ("test_unseen",),
            "other_heldout": ("other_heldout",),
        }.items()
    },
}
# Species with one specimen may be part of `no_split` or not: other splits need not hold them.
_FREE = SINGLETON

_TRAINING = ("no_split_and_seen_train", "train_seen")
_SPLIT_AGAIN = "make the splits again"
_EXAMPLES = 4

_NO_ID = Problem("splits", "error", "the sampleid is empty", "give every specimen a sampleid")
_TWICE = Problem(
    "splits",
    "error",
    "the sampleid has occurred before in the same split",
    "drop the repeated specimens, which would be counted twice",
)


def check_ids(split: str, ids: IntArray) -> list[Finding]:
    """Check that no specimen is in a split twice; `ids` are codes of sampleids, int64, ``(N,)``."""
    known = np.flatnonzero(ids != UNKNOWN)
    first = np.unique(ids[known], return_index=True)[1]
    repeated = np.delete(known, first)
    return [*_NO_ID.at(split, np.flatnonzero(ids == UNKNOWN)), *_TWICE.at(split, repeated)]


def check_membership(layout: str, ids: Mapping[str, IntArray]) -> Iterator[Finding]:
    """Check which splits share specimens, against the layout of a published file.

    Parameters
    ----------
    layout : str
        ``BIOSCAN-1M`` or ``BIOSCAN-5M``.
    ids : mapping of str to numpy.ndarray
        Codes of the sampleids of each split, int64, shape ``(N,)``.
    """
    kinds = {name: parts for name, parts in _KINDS[layout].items() if name in ids}
    members = {name: np.unique(ids[name][ids[name] != UNKNOWN]) for name in kinds}
    parts_of = {
        whole: [name for name in kinds if kinds[name] < kinds[whole] and name != _FREE]
        for whole in kinds
    }
    covered = {
        whole
        for whole, parts in parts_of.items()
        if frozenset().union(*(kinds[name] for name in parts)) == kinds[whole]
    }
    for whole, parts in parts_of.items():
        for part in parts:
            lost = np.setdiff1d(members[part], members[whole], assume_unique=True)
            problem = Problem(
                "splits", "error", f"the specimen is not in {whole}, which should hold it",
                _SPLIT_AGAIN,
            )  # fmt: skip
            yield from problem.at(part, _rows_of(lost, ids[part]))
    for whole in covered:
        inside = [name for name in kinds if kinds[name] < kinds[whole]]
        known = np.concatenate([members[name] for name in inside])
        surplus = np.setdiff1d(members[whole], known)
        problem = Problem(
            "splits", "error", f"the specimen is in none of the parts of {whole}, which are "
            f"{', '.join(inside)}", _SPLIT_AGAIN,
        )  # fmt: skip
        yield from problem.at(whole, _rows_of(surplus, ids[whole]))
    # Of a split that others cover, every overlap would be reported twice.
    for one, other in combinations([name for name in kinds if name not in covered], 2):
        if kinds[one] & kinds[other]:
            continue
        shared = np.intersect1d(members[one], members[other], assume_unique=True)
        problem = Problem("splits", "error", f"the specimen is also in {other}", _SPLIT_AGAIN)
        yield from problem.at(one, _rows_of(shared, ids[one]))


def check_species(
    splits: Mapping[str, Mapping[str, h5py.Dataset]], species: Mapping[str, IntArray]
) -> Iterator[Finding]:
    """Check that unseen species are unseen in training, and seen ones seen.

    Parameters
    ----------
    splits : mapping of str to mapping of str to h5py.Dataset
        Columns of each split.
    species : mapping of str to numpy.ndarray
        Codes of the species in each split, int64, shape ``(N,)``.
    """
    training = next((name for name in _TRAINING if name in species), None)
    for split, codes in species.items():
        for reference in filter(None, (training, "seen_keys")):
            if reference not in species:
                continue
            known, met = codes != UNKNOWN, np.isin(codes, species[reference])
            if "unseen" in split and reference == training:
                rows, problem = known & met, _leaked(reference)
            elif split in ("val_seen", "test_seen"):
                rows, problem = known & ~met, _never_met(reference)
            else:
                continue
            wrong = np.flatnonzero(rows)
            each = wrong[np.unique(codes[wrong], return_index=True)[1]]
            names = text_at(splits[split][RANKS[-1]], np.sort(each)[:_EXAMPLES])
            yield from problem.at(split, wrong, names)


def _leaked(training: str) -> Problem:
    return Problem(
        "splits",
        "error",
        f"the species should be unseen, but {training} has it",
        f"{_SPLIT_AGAIN}: accuracy on unseen species would come out too high",
    )


def _never_met(reference: str) -> Problem:
    return Problem(
        "splits",
        "warning",
        f"the species should be seen, but {reference} does not have it",
        f"{_SPLIT_AGAIN}, or expect these queries to be wrong at species level",
    )


def _rows_of(specimens: IntArray, ids: IntArray) -> IntArray:
    """Return the rows, ascending, where some specimens are."""
    return np.flatnonzero(np.isin(ids, specimens)) if len(specimens) else specimens
