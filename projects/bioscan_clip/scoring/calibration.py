"""Names with a confidence: votes of the nearest keys, calibrated, and accepted or not.

What a rank's winner
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
from scipy.special import bdtr, expit, logit

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.voting import LEAST_SHARE, Votes, best_temperature, vote

PRECISIONS: Final = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))
"""Target precisions that thresholds are kept for: 0.50, 0.51, ..., 0.99."""

RISK: Final = 0.1
"""Probability that the precision of a rank's accepted names is below the target."""

ABSENT_SHARE: Final = 0.5
"""Share of calibration queries whose species the keys should lack."""

FEWEST: Final = 60
"""Labelled queries that a calibration needs at least."""

FOLDS: Final = 10
_STEPS: Final = 50
_STARTS: Final = (0.1, 0.4, 0.7, 1.0)  # shares of the queries

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


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
        features = _features(scores, votes)
        weights = np.array(self.weights)
        confidence = _confidence(votes.labels, features, weights)
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
    votes = vote(scores, labels, temperature)
    features = _features(scores, votes)
    part = np.random.default_rng(seed).permutation(len(truth)) % FOLDS
    confidence = np.empty(truth.shape)
    for fold in range(FOLDS):
        others, ours = part != fold, part == fold
        weights = _fit_weights(
            features[:, others], votes.labels[others], truth[others], in_keys[others]
        )
        confidence[ours] = _confidence(votes.labels[ours], features[:, ours], np.array(weights))
    weights = _fit_weights(features, votes.labels, truth, in_keys)
    named = truth[:, -1] != UNKNOWN
    absent = float((~in_keys)[named].mean()) if named.any() else 0.0
    thresholds = _bound(confidence, votes.labels, truth)
    return Calibration(temperature, weights, thresholds, len(truth), absent)


def _fit_weights(features: Floats, names: Ints, truth: Ints, in_keys: Mask) -> list[list[float]]:
    """Fit the logistic regressions of each rank, and the one of the species being there."""
    counted = (truth != UNKNOWN) & (names != UNKNOWN)
    right = names == truth
    weights = [
        _regression(features[rank, counted[:, rank]], right[counted[:, rank], rank])
        for rank in range(len(RANKS))
    ]
    named = truth[:, -1] != UNKNOWN
    return [*weights, _regression(features[-1, named], in_keys[named])]


def _bound(confidence: Floats, names: Ints, truth: Ints) -> list[list[float | None]]:
    """Find thresholds at each rank and precision, for names whose ranks above have passed."""
    thresholds: list[list[float | None]] = [[] for _ in RANKS]
    for precision in PRECISIONS:
        passing = np.ones(len(truth), dtype=bool)
        for rank in range(len(RANKS)):
            counted = passing & (truth[:, rank] != UNKNOWN)
            right = names[counted, rank] == truth[counted, rank]
            threshold = lowest_threshold(confidence[counted, rank], right, precision)
            thresholds[rank].append(threshold)
            passing &= confidence[:, rank] >= (np.inf if threshold is None else threshold)
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


def _features(scores: Floats, votes: Votes) -> Floats:
    """Return what probabilities depend on, votes and nearness: shape ``(4, Q, 3)``."""
    nearest = np.asarray(scores, dtype=np.float64).max(axis=1)
    shares = np.clip(votes.shares, LEAST_SHARE, 1 - LEAST_SHARE)
    distance = np.log(np.maximum(1 - nearest, 0) + LEAST_SHARE)
    return np.stack([np.column_stack([logit(share), nearest, distance]) for share in shares.T])


def _confidence(names: Ints, features: Floats, weights: Floats) -> Floats:
    """Return probabilities that names are right, which never rise from order to species."""
    probabilities = [_probability(*pair) for pair in zip(features, weights[:-1], strict=True)]
    known = np.where(names == UNKNOWN, 0.0, np.stack(probabilities, axis=1))
    confidence: Floats = np.minimum.accumulate(known, axis=1)
    return confidence


def _regression(features: Floats, right: Mask) -> list[float]:
    """Fit a logistic regression with an L2 penalty; intercept first."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(right)) < 2:  # nothing to tell apart: Laplace's rule of succession
        share = (right.sum() + 1) / (len(right) + 2)
        return [float(logit(share)), *[0.0] * features.shape[1]]
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression().fit(scaler.transform(features), right)
    slopes = fitted.coef_[0] / scaler.scale_
    return [float(fitted.intercept_[0] - slopes @ scaler.mean_), *slopes.tolist()]


def _probability(features: Floats, weights: Floats) -> Floats:
    probability: Floats = expit(weights[0] + features @ weights[1:])
    return probability
