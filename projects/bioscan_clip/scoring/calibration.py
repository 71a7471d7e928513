"""Names with a confidence: votes of the nearest keys, calibrated, and accepted or not.

The nearest keys of a query vote for their names, weighted by their similarity. What a rank's winner
has of all votes is not yet the probability that it is right: where a species is missing from the
keys, its relatives agree on a wrong name. A logistic regression on queries of known names, of which
some have no key of their species, turns votes and similarities into probabilities (:func:`fit`),
and a bound on a binomial proportion into the thresholds above which names are accepted.
"""

from dataclasses import asdict, dataclass
from math import ceil
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

ABSENT_SHARE: Final = 0.5
"""Share of calibration queries whose species the keys should lack."""

FEWEST: Final = 60
"""Labelled queries that a calibration needs at least."""

FOLDS: Final = 10
_TEMPERATURES: Final = np.geomspace(0.001, 0.5, 28)
_LEAST_SHARE: Final = 1e-3
_PENALTY: Final = 1.0  # as scikit-learn's C of 1
_STEPS: Final = 50
_STARTS: Final = (0.1, 0.4, 0.7, 1.0)  # shares of the queries
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
    specimens : int
        Labelled queries that it was fitted to.
    absent : float
        Share of them whose species no key had.
    """

    temperature: float
    weights: list[list[float]]
    thresholds: list[list[float | None]]
    specimens: int
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

    Thresholds come from confidences that each query gets from a fit to the others (`FOLDS` parts);
    what is kept is the fit to all. At each rank they go down from the strictest, as long as the
    names above could be less precise than the target only with a probability of `RISK` (a binomial
    tail), and stop at the first that fails: fixed-sequence testing, as in hierarchical selective
    classification (Goren et al., arXiv 2405.11533), so that the bound holds for finite samples.

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
        Of the parts.

    Returns
    -------
    Calibration
        For queries of the same kind.

    Raises
    ------
    ValueError
        If fewer than `FEWEST` queries have a name.
    """
    known = (truth != UNKNOWN).any(axis=1)
    if known.sum() < FEWEST:
        raise ValueError(
            f"{known.sum()} specimens have a known name, but a calibration needs at least {FEWEST}."
        )
    scores, labels, truth, in_keys = scores[known], labels[known], truth[known], in_keys[known]
    temperature, _ = best_temperature(scores, labels, truth)
    part = np.random.default_rng(seed).permutation(len(truth)) % FOLDS
    confidence = np.empty(truth.shape)
    for fold in range(FOLDS):
        others, ours = part != fold, part == fold
        weights = _fit_weights(
            scores[others], labels[others], truth[others], in_keys[others], temperature
        )
        fitted = Calibration(temperature, weights, [], 0, 0.0)
        confidence[ours] = fitted.answer(scores[ours], labels[ours]).confidence
    weights = _fit_weights(scores, labels, truth, in_keys, temperature)
    named = truth[:, -1] != UNKNOWN
    absent = float((~in_keys)[named].mean()) if named.any() else 0.0
    answers = Answers(vote(scores, labels, temperature).labels, confidence, np.zeros(len(truth)))
    thresholds = _bound(answers, truth)
    return Calibration(temperature, weights, thresholds, len(truth), absent)


def _fit_weights(
    scores: Floats, labels: Ints, truth: Ints, in_keys: Mask, temperature: float
) -> list[list[float]]:
    """Fit the logistic regressions of each rank, and the one of the species being there."""
    votes = vote(scores, labels, temperature)
    features = _features(scores, votes)
    weights = []
    for rank, part in enumerate(features):
        counted = (truth[:, rank] != UNKNOWN) & (votes.labels[:, rank] != UNKNOWN)
        right = votes.labels[:, rank] == truth[:, rank]
        weights.append(_regression(part[counted], right[counted]))
    named = truth[:, -1] != UNKNOWN
    return [*weights, _regression(features[-1][named], in_keys[named])]


def _bound(answers: Answers, truth: Ints) -> list[list[float | None]]:
    """Find thresholds at each rank and precision, for names whose ranks above have passed."""
    thresholds: list[list[float | None]] = [[] for _ in RANKS]
    for precision in PRECISIONS:
        passing = np.ones(len(truth), dtype=bool)
        for rank in range(len(RANKS)):
            counted = passing & (truth[:, rank] != UNKNOWN)
            right = answers.labels[counted, rank] == truth[counted, rank]
            threshold = lowest_threshold(answers.confidence[counted, rank], right, precision)
            thresholds[rank].append(threshold)
            passing &= answers.confidence[:, rank] >= (np.inf if threshold is None else threshold)
    return thresholds


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
    counts = np.unique(np.linspace(0, len(order), _STEPS + 1).astype(int))[1:]
    # Equal confidences are accepted together.
    counts = np.unique(np.searchsorted(-descending, -descending[counts - 1], side="right"))
    passes = bdtr(errors[counts - 1], counts, 1 - precision) <= RISK / len(_STARTS)
    reached = -1
    for share in _STARTS:
        start = int(np.searchsorted(counts, share * len(order)))
        failed = np.flatnonzero(~passes[start:])
        end = start + (failed[0] if len(failed) else len(passes) - start) - 1
        reached = max(reached, end if end >= start else -1)
    if reached < 0:
        return None
    accepted = counts[reached]
    return float(descending[accepted - 1]) if accepted < len(order) else 0.0


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
