"""How far names can be trusted: those of test queries, calibrated on other queries.

Half of the queries are named by keys that lack their species, as many species lack keys in the
field; see :mod:`projects.bioscan_clip.scoring.calibration`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from projects.bioscan_clip.datasets.schema import RANKS, Role
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.accuracy import COLUMNS, share_interval
from projects.bioscan_clip.scoring.calibration import FEWEST, Answers, choose_absent, fit
from projects.bioscan_clip.scoring.neighbours import PAIRS, nearest_keys
from projects.bioscan_clip.scoring.reliability import expected_calibration_error
from projects.bioscan_clip.scoring.specimens import Specimens, queries_of
from projects.bioscan_clip.scoring.voting import VOTERS

ABSENT: Final = "absent"
"""The group of queries whose species the keys are made to lack."""

PRECISION: Final = 0.95
"""Share of right ones among accepted names that is aimed at."""

Search = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Trust:
    """Names of Q queries by one pair of features, and what is true.

    Attributes
    ----------
    answers : Answers
        Names with their confidence.
    accepted : numpy.ndarray
        bool, shape ``(Q, 4)``, which names pass at a target precision of `PRECISION`.
    truth : numpy.ndarray
        int64, shape ``(Q, 4)``, the queries' own codes, -1 if unknown.
    groups : numpy.ndarray
        Strings, shape ``(Q,)``: the split of a query, or ``absent`` where no key has its species.
    """

    answers: Answers
    accepted: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_]

    def known(self, rank: int, group: str = "") -> npt.NDArray[np.bool_]:
        """Say which queries, of a group or of all, have a known name at a rank; bool, ``(Q,)``."""
        known: npt.NDArray[np.bool_] = self.truth[:, rank] != UNKNOWN
        return known & (self.groups == group) if group else known

    def right(self, rank: int) -> npt.NDArray[np.bool_]:
        """Say which names are right at a rank; bool, shape ``(Q,)``."""
        right: npt.NDArray[np.bool_] = self.answers.labels[:, rank] == self.truth[:, rank]
        return right


def trusted_names(
    sets: Mapping[Role, Specimens], nearest: Search = nearest_keys
) -> dict[tuple[str, str], Trust]:
    """Name the queries that are scored, calibrated on those that thresholds are tuned on.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        ``keys``, queries, and queries to tune on.
    nearest : callable, default=nearest_keys
        How nearest keys are found.

    Returns
    -------
    dict of tuple of str to Trust
        By the pairs of features that papers report; empty where there are too few queries to
        calibrate on.
    """
    keys, queries, tuning = sets["keys"], queries_of(sets), queries_of(sets, tuning=True)
    tuned = [each for each in tuning.values() if len(each)]
    scored = {split: each for split, each in queries.items() if len(each)}
    if not scored or sum(int((each.labels >= 0).any(dim=1).sum()) for each in tuned) < FEWEST:
        return {}
    known, unknown = (Specimens.concatenate(list(each)) for each in (tuned, scored.values()))
    splits = np.repeat(list(scored), [len(each) for each in scored.values()])
    found = {}
    for query, key in PAIRS:
        if not all(query in each.modalities for each in (known, unknown)):
            continue
        if key not in keys.modalities or _width(keys, key) != _width(known, query):
            continue
        calibration = fit(*_votes(keys, key, known, query, nearest))
        scores, labels, truth, in_keys = _votes(keys, key, unknown, query, nearest)
        answers = calibration.answer(scores, labels)
        groups = np.where(in_keys | (truth[:, -1] == UNKNOWN), splits, ABSENT)
        accepted = calibration.accepts(answers, PRECISION)
        found[query, key] = Trust(answers, accepted, truth, groups)
    return found


def _width(specimens: Specimens, modality: str) -> int:
    return specimens.modalities[modality].shape[1]


def _votes(
    keys: Specimens, key: str, queries: Specimens, query: str, nearest: Search
) -> tuple[
    npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]
]:
    """Return similarities and labels of the keys that vote, the truth, and who has a key."""
    truth, held = queries.labels.cpu().numpy(), keys.labels.cpu().numpy()
    hidden = choose_absent(truth[:, -1], np.isin(truth[:, -1], held[:, -1]))
    kept = ~np.isin(held[:, -1], hidden)
    vectors = keys.modalities[key]
    among = vectors[torch.from_numpy(kept).to(vectors.device)]
    similarities, rows = nearest(queries.modalities[query], among, VOTERS)
    in_keys = np.isin(truth[:, -1], held[kept, -1])
    return similarities.cpu().numpy().astype(float), held[kept][rows.cpu().numpy()], truth, in_keys


def confidence_table(trust: Mapping[tuple[str, str], Trust]) -> pd.DataFrame:
    """Say how many names are accepted, how many of them are right, and how far confidence is off.

    Parameters
    ----------
    trust : mapping of tuple of str to Trust
        See :func:`trusted_names`.

    Returns
    -------
    pandas.DataFrame
        One row per number, with the columns of
        :func:`~projects.bioscan_clip.scoring.accuracy.accuracy_table`, k 1, a rank as level, and as
        average ``coverage`` (share of names that are accepted), ``precision`` (share of right ones
        among them; missing if there are none) and, of split ``all``, ``ece`` (expected calibration
        error). Splits are the groups of :class:`Trust`, and ``all``.
    """
    rows = []
    for pair, each in trust.items():
        for group in ("all", *sorted(set(each.groups))):
            for place, rank in enumerate(RANKS):
                known = each.known(place, "" if group == "all" else group)
                right, accepted = each.right(place)[known], each.accepted[known, place]
                for average, among in {"coverage": accepted, "precision": right[accepted]}.items():
                    if n := len(among):
                        hits = int(among.sum())
                        interval = share_interval(hits, n)
                        rows.append((*pair, group, average, 1, rank, hits / n, *interval, n))
                if group == "all" and len(right):
                    error = expected_calibration_error(each.answers.confidence[known, place], right)
                    nothing = (float("nan"), float("nan"))
                    rows.append((*pair, group, "ece", 1, rank, error, *nothing, len(right)))
    return pd.DataFrame(rows, columns=list(COLUMNS))
