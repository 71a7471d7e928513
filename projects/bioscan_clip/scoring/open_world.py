"""Seen species by photo, others by barcode: CLIBD's methods that first decide which it is.

A query photo is compared with photos of seen species. If it resembles one enough, it takes that
species; if not, the labels of the unseen-species key whose barcode is nearest to the photo (Gong et
al., CLIBD, ICLR 2025, arXiv 2405.17537: "IS+DU", and the same with a linear head).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torchmetrics.functional.classification import binary_auroc

from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.accuracy import COLUMNS, accuracy_table
from projects.bioscan_clip.scoring.bootstrap import interval, micro_draws
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.linear_head import fit_linear_head
from projects.bioscan_clip.scoring.neighbours import Match
from projects.bioscan_clip.scoring.search import Neighbours, nearest_keys

logger = logging.getLogger(__name__)

IS_DU: Final = "is_du"
LINEAR_DU: Final = "linear_du"
_SPLITS: Final = ("seen", "unseen")
_SEED: Final = 0


@dataclass(frozen=True)
class Candidates:
    """Two answers for each of Q queries, and a score to choose by; all on the CPU.

    Attributes
    ----------
    scores : torch.Tensor
        Floating point, shape ``(Q,)``: how much a query looks like a seen species.
    if_seen, if_unseen : torch.Tensor
        int64, shape ``(Q, 4)``, the labels predicted for it in either case, -1 if unknown.
    labels : torch.Tensor
        int64, shape ``(Q, 4)``, its true labels, -1 if unknown.
    seen : torch.Tensor
        bool, shape ``(Q,)``, whether its species is a seen one.
    """

    scores: torch.Tensor
    if_seen: torch.Tensor
    if_unseen: torch.Tensor
    labels: torch.Tensor
    seen: torch.Tensor


def open_world(
    keys: Embeddings,
    seen_key: torch.Tensor,
    tuning: Mapping[str, Embeddings],
    queries: Mapping[str, Embeddings],
) -> pd.DataFrame:
    """Score both methods that decide between seen and unseen species.

    Parameters
    ----------
    keys : Embeddings
        Key specimens; photos of those of seen species and barcodes of the others are used.
    seen_key : torch.Tensor
        bool, shape ``(N,)``, which keys are of seen species.
    tuning, queries : mapping of str to Embeddings
        Queries of the splits ``seen`` and ``unseen``: those that settle the threshold, and those
        that are scored. They may be the same, which flatters the result.

    Returns
    -------
    pandas.DataFrame
        Rows of query ``rgb`` and key ``is_du`` (nearest photo) or ``linear_du`` (linear head), as
        of :func:`score_switch`. Empty where photos, barcodes, or a kind of keys or of queries that
        is needed are missing; a warning says which. Without seen keys of known species there is
        no linear head.

    Raises
    ------
    ValueError
        If `seen_key` does not have one entry per key.
    """
    if seen_key.shape != (len(keys),):
        raise ValueError(
            f"`seen_key` must have shape ({len(keys)},), an entry for each key, "
            f"but has shape {tuple(seen_key.shape)}."
        )
    lacking = _lacking(keys, seen_key, tuning, queries)
    if lacking:
        logger.warning("Seen and unseen species are not told apart: there are no %s.", lacking)
        return pd.DataFrame(columns=list(COLUMNS))
    seen = seen_key.bool().cpu()
    photos, barcodes = keys.modalities["rgb"][seen], keys.modalities["dna"][~seen]
    seen_labels, unseen_labels = keys.labels[seen], keys.labels[~seen]
    sets = [_Queries.of(tuning), _Queries.of(queries)]
    if_unseen = [_nearest(one.photos, barcodes, unseen_labels)[1] for one in sets]

    def candidates(predict: _Predict) -> list[Candidates]:
        found = [predict(one.photos) for one in sets]
        return [
            Candidates(scores.cpu(), labels.cpu(), other, one.labels, one.seen)
            for (scores, labels), other, one in zip(found, if_unseen, sets, strict=True)
        ]

    by_photo = candidates(lambda wanted: _nearest(wanted, photos, seen_labels))
    tables = [score_switch(IS_DU, *by_photo)]
    if (seen_labels[:, -1] != UNKNOWN).any():
        head = fit_linear_head(photos, seen_labels.to(photos.device))
        tables.append(score_switch(LINEAR_DU, *candidates(head.predict)))
    else:
        logger.warning("There is no linear head: no seen key has a known species.")
    return pd.concat(tables, ignore_index=True)


def score_switch(method: str, tuning: Candidates, queries: Candidates) -> pd.DataFrame:
    """Settle a method's threshold on some queries, and score it on others.

    Parameters
    ----------
    method : str
        What the rows say under ``key``.
    tuning : Candidates
        Queries that settle the threshold; some of either kind must have a known species.
    queries : Candidates
        Queries that are scored, at least one.

    Returns
    -------
    pandas.DataFrame
        Micro and macro accuracies as by
        :func:`~projects.bioscan_clip.scoring.accuracy.accuracy_table`, at k 1; and rows of
        split ``all`` and average ``decision``: at level ``accuracy`` the share of queries rightly
        taken for seen or unseen, at ``auroc`` (only if there are both) the probability that a seen
        one has a higher score than an unseen one, and at ``threshold`` the threshold, whose n is
        the number of queries that settled it.
    """
    threshold, settled_by = _settle(tuning)
    taken_for_seen = queries.scores >= threshold
    predicted = torch.where(taken_for_seen[:, None], queries.if_seen, queries.if_unseen)
    # Each prediction is the only neighbour of its query.
    answers, asked, neighbours = Embeddings(predicted), {}, {}
    for split, chosen in (("seen", queries.seen), ("unseen", ~queries.seen)):
        rows = chosen.nonzero()
        asked[split] = Embeddings(queries.labels[chosen])
        neighbours[Match("rgb", method, split)] = Neighbours(queries.scores[rows], rows)
    accuracies = accuracy_table(answers, asked, neighbours, top_k=(1,))

    right = (taken_for_seen == queries.seen).double().mean().item()
    n = len(queries.seen)
    low, high = interval(micro_draws(np.array([right]), n, np.random.default_rng(_SEED)))
    decision = [("accuracy", right, low.item(), high.item(), n)]
    if queries.seen.any() and not queries.seen.all():
        # In double precision, as scores outside [0, 1] go through a sigmoid that must not join any.
        auroc = binary_auroc(queries.scores.double(), queries.seen.long()).item()
        decision.append(("auroc", auroc, np.nan, np.nan, n))
    decision.append(("threshold", threshold, np.nan, np.nan, settled_by))
    rows_of_decision = [("rgb", method, "all", "decision", 1, *row) for row in decision]
    decisions = pd.DataFrame(rows_of_decision, columns=list(COLUMNS))
    return decisions if accuracies.empty else pd.concat([accuracies, decisions], ignore_index=True)


def best_threshold(
    scores: npt.NDArray[np.floating], right: npt.NDArray[np.bool_], seen: npt.NDArray[np.bool_]
) -> float:
    """Find the score from which on a query should be taken for a seen species.

    Every distinct score is tried, by sorting once. From one score to the next, only the queries
    between them change their answer.

    Parameters
    ----------
    scores : numpy.ndarray
        Floating point, shape ``(Q,)``.
    right : numpy.ndarray
        bool, shape ``(Q, 2)``: whether the answer is right if it is taken for an unseen species,
        and for a seen one.
    seen : numpy.ndarray
        bool, shape ``(Q,)``, whether it is one; some must be, and some not.

    Returns
    -------
    float
        The score with the highest harmonic mean of the accuracies of seen and unseen queries; the
        lowest such score if several are as good.
    """
    thresholds, positions = np.unique(scores, return_inverse=True)
    counts = []
    for group in (seen, ~seen):
        if_unseen, if_seen = right[group].T.astype(np.float64)
        changes = np.bincount(positions[group], if_unseen - if_seen, len(thresholds))
        of_lower_scores = np.cumsum(changes) - changes
        counts.append(if_seen.sum() + of_lower_scores)
    # Half of the harmonic mean, from whole numbers, so that equally good scores are exactly equal.
    product = counts[0] * counts[1]
    total = counts[0] * (~seen).sum() + counts[1] * seen.sum()
    half_means = np.divide(product, total, out=np.zeros_like(total), where=total > 0)
    return float(thresholds[np.argmax(half_means)])


def _settle(tuning: Candidates) -> tuple[float, int]:
    """Return the best threshold for species, and the number of queries that have one."""
    truth = tuning.labels[:, -1]
    known = truth != UNKNOWN
    right = torch.stack([tuning.if_unseen[:, -1] == truth, tuning.if_seen[:, -1] == truth], dim=1)
    parts = (part[known].numpy() for part in (tuning.scores, right, tuning.seen))
    return best_threshold(*parts), int(known.sum())


@dataclass(frozen=True)
class _Queries:
    """Photos of both splits: embeddings (Q, D), labels (Q, 4) and which are of seen species."""

    photos: torch.Tensor
    labels: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def of(cls, queries: Mapping[str, Embeddings]) -> "_Queries":
        parts = [(split, queries[split]) for split in _SPLITS if split in queries]
        return cls(
            torch.cat([part.modalities["rgb"] for _, part in parts if len(part)]),
            torch.cat([part.labels for _, part in parts]).cpu(),
            torch.cat([torch.full((len(part),), split == "seen") for split, part in parts]),
        )


_Predict = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _nearest(
    queries: torch.Tensor, keys: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each query's similarity to its nearest key (Q,), and that key's labels (Q, 4)."""
    similarities, rows = nearest_keys(queries, keys, k=1)
    return similarities[:, 0], labels[rows[:, 0].to(labels.device)].cpu()


def _lacking(
    keys: Embeddings,
    seen_key: torch.Tensor,
    tuning: Mapping[str, Embeddings],
    queries: Mapping[str, Embeddings],
) -> str | None:
    """Name the first thing that is needed but not there."""
    if keys.rgb is None or keys.dna is None:
        return "photos and barcodes of keys"
    if keys.rgb.shape[1] != keys.dna.shape[1]:
        return "photo and barcode embeddings of keys with the same dimension"
    if not seen_key.any() or seen_key.all():
        return "unseen keys" if seen_key.any() else "seen keys"
    for split in _SPLITS:
        specimens = tuning.get(split)
        if specimens is None or not (specimens.labels[:, -1] != UNKNOWN).any():
            return f"{split} queries of known species to settle the threshold by"
    scored = [queries[split] for split in _SPLITS if split in queries]
    if not any(len(part) for part in scored):
        return "queries"
    if any(len(part) and part.rgb is None for part in (*scored, *tuning.values())):
        return "photos of queries"
    return None
