"""Accuracy of labels taken from nearest keys, as one tidy table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.bootstrap import (
    Values,
    interval,
    macro_draws,
    micro_draws,
)
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.neighbours import Match
from projects.bioscan_clip.scoring.search import Neighbours

COLUMNS: Final = (
    *("query", "key", "split", "average", "k", "level"),
    *("value", "low", "high", "n"),
)
_SEED: Final = 0


@dataclass(frozen=True)
class _Scores:
    """Numbers of one split, average and rank, for M pairs of features and T numbers of neighbours.

    ``pairs`` has M entries, ``values`` shape (M, T), ``draws`` shape (draws, M * T).
    """

    pairs: list[tuple[str, str]]
    values: Values
    draws: Values
    n: int


def accuracy_table(
    keys: Embeddings,
    queries: Mapping[str, Embeddings],
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
    keys, queries : Embeddings, mapping of str to Embeddings
        What was compared.
    neighbours : mapping of Match to Neighbours
        What was found.
    top_k : sequence of int
        Numbers of neighbours among which the right label counts.

    Returns
    -------
    pandas.DataFrame
        One row per number, with the columns `COLUMNS`; ``harmonic`` is the split of the harmonic
        mean of ``seen`` and ``unseen``. ``low`` and ``high`` are the ends of the bootstrapped 95%
        confidence interval, over specimens (micro) or classes (macro), and ``n`` is their number.
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


def _score(
    keys: Embeddings,
    queries: Embeddings,
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
    rng = np.random.default_rng([_SEED, position])
    for average, shares, draws in (
        ("micro", correct, micro_draws(correct.mean(axis=0), len(correct), rng)),
        ("macro", by_class, macro_draws(by_class, rng)),
    ):
        values = shares.mean(axis=0).reshape(len(pairs), len(top_k))
        yield average, _Scores(pairs, values, draws, len(shares))


def _harmonic(seen: _Scores, unseen: _Scores) -> _Scores:
    return _Scores(
        seen.pairs,
        harmonic_mean(seen.values, unseen.values),
        harmonic_mean(seen.draws, unseen.draws),
        seen.n + unseen.n,
    )


def _tidy(
    scores: _Scores, split: str, average: str, rank: str, top_k: Sequence[int]
) -> pd.DataFrame:
    low, high = interval(scores.draws)
    return pd.DataFrame(
        {
            "query": [query for query, _ in scores.pairs for _ in top_k],
            "key": [key for _, key in scores.pairs for _ in top_k],
            "split": split,
            "average": average,
            "k": [k for _ in scores.pairs for k in top_k],
            "level": rank,
            "value": scores.values.ravel(),
            "low": low,
            "high": high,
            "n": scores.n,
        }
    )
