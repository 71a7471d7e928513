"""How often labels taken from nearest keys are right, and how wrong they are, as tidy tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import binomtest

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.neighbours import Match, Neighbours
from projects.bioscan_clip.scoring.specimens import Specimens

COLUMNS: Final = (
    *("query", "key", "split", "average", "k", "level"),
    *("value", "low", "high", "n"),
)
SHARED: Final = (*reversed(RANKS), "none")
"""What prediction and truth can share, from the lowest rank up; positions are distances."""

_DRAWS: Final = 1000
_LEVEL: Final = 0.95
_SEED: Final = 0

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Scores:
    """Numbers of one split, average and rank, and the ends of their 95% confidence intervals.

    ``pairs`` are M pairs of features; the arrays have shape ``(M * T,)``, for T numbers of
    neighbours of each; ``n`` is what is averaged over.
    """

    pairs: list[tuple[str, str]]
    value: Values
    low: Values
    high: Values
    n: int


def accuracy_table(
    keys: Specimens,
    queries: Mapping[str, Specimens],
    neighbours: Mapping[Match, Neighbours],
    top_k: Sequence[int],
) -> pd.DataFrame:
    """Score neighbours, at every rank, for every pair of features and split.

    A query is right at top k if one of its first k neighbours has its label. *Micro* is the share
    of right queries; *macro* the mean over the true classes of each one's share. A query without a
    label at a rank is not counted at that rank, and a key without one is never right. Where no
    query has a label, there is no number.

    Parameters
    ----------
    keys, queries : Specimens, mapping of str to Specimens
        What was compared.
    neighbours : mapping of Match to Neighbours
        What was found.
    top_k : sequence of int
        Numbers of neighbours among which the right label counts.

    Returns
    -------
    pandas.DataFrame
        One row per number, with the columns `COLUMNS`; ``harmonic`` is the split of the harmonic
        mean of ``seen`` and ``unseen``. ``low`` and ``high`` are the ends of the 95% confidence
        interval: Wilson's (micro), bootstrapped over classes (macro), or of both splits' intervals
        squared and added (harmonic; Zou & Donner, Statistics in Medicine 2008). ``n`` is the number
        of specimens or classes.
    """
    scores = {}
    for split, specimens in queries.items():
        found = {match: near for match, near in neighbours.items() if match.split == split}
        for position, rank in enumerate(RANKS):
            for average, score in _score(keys, specimens, found, position, top_k):
                scores[split, average, rank] = score
    for average in ("micro", "macro"):
        for rank in RANKS:
            seen, unseen = (scores.get((split, average, rank)) for split in ("seen", "unseen"))
            if seen is not None and unseen is not None and seen.pairs == unseen.pairs:
                scores["harmonic", average, rank] = _harmonic(seen, unseen)
    tables = [_tidy(score, *name, top_k) for name, score in scores.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def mistake_table(
    keys: Specimens,
    queries: Mapping[str, Specimens],
    neighbours: Mapping[Match, Neighbours],
) -> pd.DataFrame:
    """Say how far nearest keys are from the truth, for every pair of features and split.

    Parameters
    ----------
    keys, queries, neighbours
        As for :func:`accuracy_table`.

    Returns
    -------
    pandas.DataFrame
        Rows of average ``mistake`` and k 1: at levels ``species``, ``genus``, ``family``,
        ``order`` and ``none`` the share of queries whose lowest shared rank this is, at level
        ``mean`` the mean distance, 0 to 4. Only queries of known species count. No intervals.
    """
    rows: list[tuple[str | int | float, ...]] = []
    for match, near in neighbours.items():
        labels = queries[match.split].labels
        named = labels[:, -1] != UNKNOWN
        if not named.any():
            continue
        found = distances(keys.labels[near.keys[named, 0]], labels[named])
        shares = (found.bincount(minlength=len(SHARED)) / len(found)).tolist()
        levels = dict(zip(SHARED, shares, strict=True)) | {"mean": found.double().mean().item()}
        rows += [
            (*match, "mistake", 1, level, value, np.nan, np.nan, len(found))
            for level, value in levels.items()
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def distances(predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many ranks one goes up from the species to what two specimens share.

    Parameters
    ----------
    predicted, labels : torch.Tensor
        int64, shape ``(Q, 4)``, codes of order, family, genus and species, -1 if unknown.

    Returns
    -------
    torch.Tensor
        int64, shape ``(Q,)``: 0 where they share the species, 1 the genus, 2 the family, 3 the
        order and 4 nothing. Unknown labels are never shared.
    """
    shared = ((predicted == labels) & (labels != UNKNOWN)).flip(1)
    nothing = torch.ones_like(shared[:, :1])
    return torch.cat([shared, nothing], dim=1).int().argmax(dim=1)


def correct_at(neighbour_labels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Say for each query and k whether one of its first k neighbours has its label.

    Parameters
    ----------
    neighbour_labels : torch.Tensor
        int64, shape ``(Q, K)``, labels of each query's neighbours, nearest first.
    labels : torch.Tensor
        int64, shape ``(Q,)``, known labels of the queries.

    Returns
    -------
    torch.Tensor
        bool, shape ``(Q, K)``; column ``k - 1`` is top-k correctness.
    """
    return (neighbour_labels == labels[:, None]).cummax(dim=1).values


def class_accuracy(correct: Values, labels: npt.NDArray[np.int64]) -> Values:
    """Return each class's share of correct queries.

    Parameters
    ----------
    correct : numpy.ndarray
        float64, shape ``(Q, M)``, 1 where correct, with ``Q >= 1``.
    labels : numpy.ndarray
        int64, shape ``(Q,)``. Only classes that occur here count.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(C, M)``, by ascending label.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    shares: Values = np.add.reduceat(correct[order], starts, axis=0) / sizes[:, None]
    return shares


def harmonic_mean(first: Values, second: Values) -> Values:
    """Return the harmonic means of accuracies, 0 where both are 0."""
    total = first + second
    return np.divide(2 * first * second, total, out=np.zeros_like(total), where=total > 0)


@lru_cache(maxsize=4096)
def share_interval(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95% confidence interval of a share, `right` of `n`."""
    low, high = binomtest(right, n).proportion_ci(_LEVEL, method="wilson")
    return float(low), float(high)


def _score(
    keys: Specimens,
    queries: Specimens,
    neighbours: Mapping[Match, Neighbours],
    position: int,
    top_k: Sequence[int],
) -> Iterator[tuple[str, _Scores]]:
    """Yield micro and macro scores of one split at one rank, if any query has a label there."""
    labels = queries.labels[:, position]
    labelled = labels != UNKNOWN
    if not labelled.any() or not neighbours:
        return
    truth = labels[labelled]
    found = [
        correct_at(keys.labels[near.keys[labelled], position], truth)[
            :, [min(k, near.keys.shape[1]) - 1 for k in top_k]
        ]
        for near in neighbours.values()
    ]
    correct = torch.cat(found, dim=1).cpu().numpy().astype(np.float64)
    by_class = class_accuracy(correct, truth.cpu().numpy())
    pairs = [(match.query, match.key) for match in neighbours]
    n, counts = len(correct), correct.sum(axis=0).astype(int).tolist()
    low, high = np.array([share_interval(count, n) for count in counts]).T
    yield "micro", _Scores(pairs, correct.mean(axis=0), low, high, n)
    low, high = _bootstrap(by_class, np.random.default_rng([_SEED, position]))
    yield "macro", _Scores(pairs, by_class.mean(axis=0), low, high, len(by_class))


def _bootstrap(class_accuracy: Values, rng: np.random.Generator) -> tuple[Values, Values]:
    """Return the central 95%, each (M,), of macro accuracies of resampled classes (C, M)."""
    classes = len(class_accuracy)
    times_drawn = rng.multinomial(classes, np.full(classes, 1 / classes), size=_DRAWS)
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(times_drawn @ class_accuracy / classes, [tail, 100 - tail], axis=0)
    return low, high


def _harmonic(seen: _Scores, unseen: _Scores) -> _Scores:
    value = harmonic_mean(seen.value, unseen.value)
    below, above = (
        np.hypot(
            value - harmonic_mean(getattr(seen, end), unseen.value),
            value - harmonic_mean(seen.value, getattr(unseen, end)),
        )
        for end in ("low", "high")
    )
    low, high = np.maximum(value - below, 0), np.minimum(value + above, 1)
    return _Scores(seen.pairs, value, low, high, seen.n + unseen.n)


def _tidy(
    scores: _Scores, split: str, average: str, rank: str, top_k: Sequence[int]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "query": [query for query, _ in scores.pairs for _ in top_k],
            "key": [key for _, key in scores.pairs for _ in top_k],
            "split": split,
            "average": average,
            "k": [k for _ in scores.pairs for k in top_k],
            "level": rank,
            "value": scores.value,
            "low": scores.low,
            "high": scores.high,
            "n": scores.n,
        }
    )
