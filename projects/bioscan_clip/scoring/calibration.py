"""Names with a confidence: votes of the nearest keys, calibrated, and accepted or not.

The nearest keys of a query vote for their names, weighted by their similarity. What a rank's winner
has of all votes is not yet the probability that it is right: where a species is missing from the
keys, its relatives agree on a wrong name. A logistic regression on queries of known names, of which
some have no key of their species, turns votes and similarities into probabilities (:func:`fit`),
and a bound on a binomial proportion into the thresholds above which names are accepted.
"""

from dataclasses import asdict, dataclass
from math import ceil, log
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import bdtr, betaincinv, expit

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

PRECISIONS: Final = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))
"""Target precisions that thresholds are kept for: 0.50, 0.51, ..., 0.99."""

RISK: Final = 0.1
"""Probability that the precision of a rank's accepted names is below the target."""

ABSENT_SHARE: Final = 1 / 3
"""Share of calibration queries whose species the keys should lack."""

FEWEST: Final = 60
"""Labelled queries that a calibration needs at least."""

_TEMPERATURES: Final = np.geomspace(0.001, 0.5, 28)
_LEAST_SHARE: Final = 1e-3
_PENALTY: Final = 1.0  # as scikit-learn's C of 1
_STEPS: Final = 40
_BLOCK: Final = 1 << 12

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


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
        return float(-np.log(np.maximum(shares[named], _LEAST_SHARE)).mean())

    losses = [loss(temperature) for temperature in _TEMPERATURES]
    best = int(np.argmin(losses))
    return float(_TEMPERATURES[best]), losses[best]


@dataclass(frozen=True)
class Answers:
    """Names of Q queries, with what is known of their truth.

    Attributes
    ----------
    labels : numpy.ndarray
        int64, shape ``(Q, 4)``, codes of the names, -1 where there is none.
    confidence : numpy.ndarray
        float64, shape ``(Q, 4)``, calibrated probabilities that they are right, falling from order
        to species.
    in_keys : numpy.ndarray
        float64, shape ``(Q,)``, probability that a key has the query's species.
    """

    labels: Ints
    confidence: Floats
    in_keys: Floats


@dataclass(frozen=True)
class Calibration:
    """What turns similarities into names with a confidence; made by :func:`fit`.

    Attributes
    ----------
    temperature : float
        Of the votes.
    weights : list of list of float
        Coefficients of the logistic regression at each rank, and below them of the one that says
        whether the species is among the keys: intercept first.
    thresholds : list of list of float or None
        Confidence from which a name is accepted, at each rank and for each of `PRECISIONS`; None
        where no threshold is known to keep the target.
    fitted_on, bounded_on : int
        Labelled queries that gave the weights, and that gave the thresholds.
    absent : float
        Share of them whose species no key had.
    """

    temperature: float
    weights: list[list[float]]
    thresholds: list[list[float | None]]
    fitted_on: int
    bounded_on: int
    absent: float

    def answer(self, scores: Floats, labels: Ints) -> Answers:
        """Name queries by their nearest keys; parameters as for :func:`vote`."""
        votes = vote(scores, labels, self.temperature)
        weights = np.array(self.weights)
        features = _features(scores, votes)
        probabilities = [
            np.where(votes.labels[:, rank] == UNKNOWN, 0.0, _probability(part, weights[rank]))
            for rank, part in enumerate(features)
        ]
        confidence = np.minimum.accumulate(np.stack(probabilities, axis=1), axis=1)
        return Answers(votes.labels, confidence, _probability(features[-1], weights[-1]))

    def accepts(self, answers: Answers, precision: float) -> Mask:
        """Say which names pass, so that those that do are right as often as is wanted.

        Parameters
        ----------
        answers : Answers
            Names of Q queries.
        precision : float
            Target precision; rounded up to one of `PRECISIONS`.

        Returns
        -------
        numpy.ndarray
            bool, shape ``(Q, 4)``; a name passes only if those above it do.

        Raises
        ------
        ValueError
            If it is below the first or above the last of `PRECISIONS`.
        """
        column = precision_step(precision)
        thresholds = [np.inf if row[column] is None else row[column] for row in self.thresholds]
        passes: Mask = answers.confidence >= np.array(thresholds, dtype=np.float64)
        return np.logical_and.accumulate(passes, axis=1)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def precision_step(precision: float) -> int:
    """Return the position in `PRECISIONS` of the first that is not below a target precision."""
    if not PRECISIONS[0] <= precision <= PRECISIONS[-1]:
        raise ValueError(
            f"A precision of {precision:g} cannot be asked for: thresholds are known from "
            f"{PRECISIONS[0]:g} to {PRECISIONS[-1]:g}."
        )
    return ceil(round((precision - PRECISIONS[0]) * 100, 6))


def fit(scores: Floats, labels: Ints, truth: Ints, in_keys: Mask, seed: int = 0) -> Calibration:
    """Calibrate on queries of known names.

    Half of the queries, drawn at random, give temperature and probabilities, the other half the
    thresholds. At each rank these go down from the strictest, as long as the names above it could
    be less precise than the target only with a probability of `RISK` (a binomial tail), and stop at
    the first that fails: fixed-sequence testing, as in hierarchical selective classification (Goren
    et al., arXiv 2405.11533), so that the bound holds for finite samples.

    Parameters
    ----------
    scores, labels
        As for :func:`vote`. Some queries should have no key of their species: see
        :func:`choose_absent`.
    truth : numpy.ndarray
        int64, shape ``(Q, 4)``, the queries' own codes, -1 if unknown.
    in_keys : numpy.ndarray
        bool, shape ``(Q,)``, whether any key, near or not, has the query's species.
    seed : int
        Of the two halves.

    Returns
    -------
    Calibration
        For queries of the same kind.

    Raises
    ------
    ValueError
        If fewer than `FEWEST` queries have a name.
    """
    known = np.flatnonzero((truth != UNKNOWN).any(axis=1))
    if len(known) < FEWEST:
        raise ValueError(
            f"{len(known)} specimens have a known name, but a calibration needs at least {FEWEST}."
        )
    shuffled = np.random.default_rng(seed).permutation(known)
    first, second = np.sort(shuffled[::2]), np.sort(shuffled[1::2])
    temperature, _ = best_temperature(scores[first], labels[first], truth[first])
    votes = vote(scores[first], labels[first], temperature)
    features = _features(scores[first], votes)
    weights = []
    for rank, part in enumerate(features):
        counted = (truth[first, rank] != UNKNOWN) & (votes.labels[:, rank] != UNKNOWN)
        right = votes.labels[:, rank] == truth[first, rank]
        weights.append(_regression(part[counted], right[counted]))
    named = truth[first, -1] != UNKNOWN
    weights.append(_regression(features[-1][named], in_keys[first][named]))

    unbounded: list[list[float | None]] = [[None] * len(PRECISIONS) for _ in RANKS]
    absent = float((~in_keys)[truth[:, -1] != UNKNOWN].mean()) if named.any() else 0.0
    calibration = Calibration(temperature, weights, unbounded, len(first), len(second), absent)
    answers = calibration.answer(scores[second], labels[second])
    for column, precision in enumerate(PRECISIONS):
        passing = np.ones(len(second), dtype=bool)
        for rank in range(len(RANKS)):
            counted = passing & (truth[second, rank] != UNKNOWN)
            right = answers.labels[counted, rank] == truth[second][counted, rank]
            threshold = lowest_threshold(answers.confidence[counted, rank], right, precision)
            calibration.thresholds[rank][column] = threshold
            passing &= answers.confidence[:, rank] >= (np.inf if threshold is None else threshold)
    return calibration


def lowest_threshold(confidence: Floats, right: Mask, precision: float) -> float | None:
    """Find the lowest confidence above which answers keep a precision, with the risk `RISK`.

    Parameters
    ----------
    confidence : numpy.ndarray
        float64, shape ``(N,)``.
    right : numpy.ndarray
        bool, shape ``(N,)``, whether the answer is right.
    precision : float
        Wanted share of right ones among those at or above the threshold.

    Returns
    -------
    float or None
        The threshold; None if there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    descending, errors = confidence[order], np.cumsum(~right[order])
    # With fewer answers than this, not even all right ones would show the precision.
    fewest = ceil(log(RISK) / log(precision))
    found = None
    for count in np.unique(np.linspace(fewest, len(order), _STEPS).astype(int)):
        if not fewest <= count <= len(order):
            break
        # Equal confidences are accepted together.
        accepted = int(np.searchsorted(-descending, -descending[count - 1], side="right"))
        if bdtr(errors[accepted - 1], accepted, 1 - precision) > RISK:
            break
        found = float(descending[accepted - 1]) if accepted < len(order) else 0.0
    return found


def choose_absent(truth: Ints, in_keys: Mask, share: float = ABSENT_SHARE, seed: int = 0) -> Ints:
    """Choose species whose keys their queries must not see, as if the library lacked them.

    Without such queries a calibration would not know what it looks like when a species is missing.
    Whole species are drawn until the wanted share of queries has no key of its species.

    Parameters
    ----------
    truth : numpy.ndarray
        int64, shape ``(Q,)``, codes of the queries' species, -1 if unknown.
    in_keys : numpy.ndarray
        bool, shape ``(Q,)``, whether a key has this species.
    share : float
        Wanted share.
    seed : int
        Of the draw.

    Returns
    -------
    numpy.ndarray
        int64, codes of the species to hide; empty if enough are missing as it is.
    """
    known = truth != UNKNOWN
    species, counts = np.unique(truth[known & in_keys], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(species))
    wanted = share * known.sum() - (known & ~in_keys).sum()
    before = np.cumsum(counts[order]) - counts[order]
    return np.sort(species[order[before + counts[order] / 2 < wanted]])


def reliability(confidence: Floats, right: Mask, bins: int = 10) -> pd.DataFrame:
    """Compare confidence with accuracy, in bins of confidence.

    Parameters
    ----------
    confidence : numpy.ndarray
        float64, shape ``(N,)``, in [0, 1].
    right : numpy.ndarray
        bool, shape ``(N,)``.
    bins : int
        Bins of equal width; empty ones are left out.

    Returns
    -------
    pandas.DataFrame
        A row per bin: ``low``, ``high``, mean ``confidence``, ``accuracy`` and ``n``.
    """
    position = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(position)
    table = grouped.mean().astype(float)
    table.insert(0, "low", table.index / bins)
    table.insert(1, "high", (table.index + 1) / bins)
    return table.assign(n=grouped.size()).reset_index(drop=True)


def expected_calibration_error(confidence: Floats, right: Mask, bins: int = 10) -> float:
    """Return the mean difference of confidence and accuracy over bins, weighted by their size."""
    table = reliability(confidence, right, bins)
    difference = (table["confidence"] - table["accuracy"]).abs()
    return float((difference * table["n"]).sum() / max(1, table["n"].sum()))


def coverage_curve(confidence: Floats, right: Mask, points: int = 100) -> pd.DataFrame:
    """Show how accuracy falls as more answers are accepted, the most confident ones first.

    Parameters
    ----------
    confidence, right
        As for :func:`reliability`; at least one.
    points : int
        Rows of the table, at most.

    Returns
    -------
    pandas.DataFrame
        ``threshold``, ``coverage`` (share accepted), ``accuracy`` among them, and ``low`` and
        ``high``, its 95% confidence interval by Clopper and Pearson.
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.unique(np.linspace(1, len(order), points).astype(int))
    hits = np.cumsum(right[order])[counts - 1]
    low, high = binomial_interval(hits, counts)
    return pd.DataFrame(
        {
            "threshold": confidence[order][counts - 1],
            "coverage": counts / len(order),
            "accuracy": hits / counts,
            "low": low,
            "high": high,
        }
    )


def binomial_interval(hits: Ints, counts: Ints, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the interval of Clopper and Pearson of shares ``hits / counts``."""
    tail = (1 - level) / 2
    misses = counts - hits
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1), misses + 1, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, 1), 1 - tail), 1.0)
    return low, high


def acceptance(answers: Answers, passes: Mask, truth: Ints) -> pd.DataFrame:
    """Count accepted names at each rank, and how many of them are right.

    Parameters
    ----------
    answers : Answers
        Names of Q queries.
    passes : numpy.ndarray
        bool, shape ``(Q, 4)``; see :meth:`Calibration.accepts`.
    truth : numpy.ndarray
        int64, shape ``(Q, 4)``, the queries' own codes; those that are unknown do not count.

    Returns
    -------
    pandas.DataFrame
        A row per rank: ``rank``, ``n`` queries, ``coverage`` (share accepted), ``precision`` (share
        of right ones among them, NaN if there are none) and ``accuracy`` without abstention.
    """
    known = truth != UNKNOWN
    right = (answers.labels == truth) & known
    accepted = passes & known
    counts, totals = accepted.sum(axis=0), known.sum(axis=0)
    hits = (right & passes).sum(axis=0)
    return pd.DataFrame(
        {
            "rank": RANKS,
            "n": totals,
            "coverage": _share(counts, totals),
            "precision": _share(hits, counts),
            "accuracy": _share(right.sum(axis=0), totals),
        }
    )


def _share(part: Ints, total: Ints) -> Floats:
    return np.divide(part, total, out=np.full(len(part), np.nan), where=total > 0)


def _weights(scores: Floats, temperature: float) -> Floats:
    """Return softmax weights of the keys of each query."""
    shifted = np.asarray(scores, dtype=np.float64) / temperature
    weights = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    normalized: Floats = weights / weights.sum(axis=1, keepdims=True)
    return normalized


def _features(scores: Floats, votes: Votes) -> list[Floats]:
    """Return what probabilities depend on, (Q, F) at each rank: votes and nearness."""
    nearest = np.asarray(scores, dtype=np.float64).max(axis=1)
    shares = np.clip(votes.shares, _LEAST_SHARE, 1 - _LEAST_SHARE)
    distance = np.log(np.maximum(1 - nearest, 0) + _LEAST_SHARE)
    return [
        np.stack([np.log(share / (1 - share)), nearest, distance], axis=1) for share in shares.T
    ]


def _regression(features: Floats, right: Mask) -> list[float]:
    """Fit a logistic regression with an L2 penalty by Newton's method; intercept first."""
    if len(right) == 0:
        return [0.0] * (features.shape[1] + 1)
    centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    design = np.column_stack([np.ones(len(right)), (features - centre) / scale])
    penalty = np.diag([1e-3, *[_PENALTY] * features.shape[1]])
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        probability = expit(design @ weights)
        gradient = design.T @ (probability - right) + penalty @ weights
        curvature = (design.T * (probability * (1 - probability))) @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    slopes = weights[1:] / scale
    return [float(weights[0] - slopes @ centre), *slopes.tolist()]


def _probability(features: Floats, weights: Floats) -> Floats:
    probability: Floats = expit(weights[0] + features @ weights[1:])
    return probability
