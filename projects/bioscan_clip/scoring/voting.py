"""What the nearest keys of a query say of its name: votes, weighted by similarity."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

VOTERS: Final = 20
"""Nearest keys that vote for a name."""

LEAST_SHARE: Final = 1e-3
"""Votes that a name has at least where their logarithm is taken."""

_TEMPERATURES: Final = np.geomspace(0.001, 0.5, 28)
_BLOCK: Final = 1 << 12

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Votes:
    """What the nearest keys of Q queries say.

    Attributes
    ----------
    labels : numpy.ndarray
        int64, shape ``(Q, 4)``, codes of the names with most votes, each within the one above it;
        -1 where no voter has a name.
    shares : numpy.ndarray
        float64, shape ``(Q, 4)``, their part of all votes; never more than of the rank above.
    """

    labels: Ints
    shares: Floats


def vote(scores: Floats, labels: Ints, temperature: float) -> Votes:
    """Let the nearest keys vote, with weights ``exp(score / temperature)``.

    At each rank the name with most votes wins, among the keys that have the winners of the ranks
    above; a key without a name there has a vote, but nobody to give it to.

    Parameters
    ----------
    scores : numpy.ndarray
        Floating point, shape ``(Q, K)``, similarities to the nearest keys; -inf for none.
    labels : numpy.ndarray
        int64, shape ``(Q, K, 4)``, codes of these keys, -1 if unknown.
    temperature : float
        The smaller, the more the nearest ones count.

    Returns
    -------
    Votes
        The winners.
    """
    winners, shares = np.full((len(scores), 4), UNKNOWN, dtype=np.int64), np.zeros((len(scores), 4))
    for start in range(0, len(scores), _BLOCK):
        rows = slice(start, start + _BLOCK)
        weights = _weights(scores[rows], temperature)
        electing = np.ones_like(weights, dtype=bool)
        for rank in range(len(RANKS)):
            names = labels[rows, :, rank]
            electing &= names != UNKNOWN
            same = names[:, :, None] == names[:, None, :]
            votes = np.where(electing, (same * (weights * electing)[:, None, :]).sum(axis=2), 0.0)
            best = votes.argmax(axis=1)[:, None]
            share = np.take_along_axis(votes, best, axis=1)
            winner = np.where(share > 0, np.take_along_axis(names, best, axis=1), UNKNOWN)
            winners[rows, rank], shares[rows, rank] = winner[:, 0], share[:, 0]
            electing &= names == winner
    return Votes(winners, np.minimum.accumulate(shares, axis=1))


def best_temperature(scores: Floats, labels: Ints, truth: Ints) -> tuple[float, float]:
    """Find the temperature at which the true names get most of the votes.

    Parameters
    ----------
    scores, labels
        As for :func:`vote`.
    truth : numpy.ndarray
        int64, shape ``(Q, 4)``, the queries' own codes, -1 if unknown.

    Returns
    -------
    tuple of float
        The temperature, and the mean of ``-log(votes of the true name)`` over queries and ranks.
    """
    named = truth != UNKNOWN
    same = (labels == truth[:, None]) & named[:, None]

    def loss(temperature: float) -> float:
        shares = (_weights(scores, temperature)[:, :, None] * same).sum(axis=1)
        return float(-np.log(np.maximum(shares[named], LEAST_SHARE)).mean())

    losses = [loss(temperature) for temperature in _TEMPERATURES]
    best = int(np.argmin(losses))
    return float(_TEMPERATURES[best]), losses[best]


def _weights(scores: Floats, temperature: float) -> Floats:
    """Return softmax weights of the keys of each query."""
    shifted = np.asarray(scores, dtype=np.float64) / temperature
    weights = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    normalized: Floats = weights / weights.sum(axis=1, keepdims=True)
    return normalized
