"""Seen species by photo, others by barcode: methods that first decide which it is.

A query photo is compared with photos of seen species. If it resembles one enough, it takes that
species; if not, the labels of the unseen-species key whose barcode is nearest to the photo (Gong et
al., CLIBD, ICLR 2025, arXiv 2405.17537: "IS+DU", and the same with a linear head). A third method
is ours: a linear head on the means of photo and barcode embeddings, for queries that have both.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from projects.bioscan_clip.datasets.schema import RANKS, Role
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.accuracy import COLUMNS, accuracy_table, share_interval
from projects.bioscan_clip.scoring.linear_head import fit_linear_head
from projects.bioscan_clip.scoring.neighbours import (
    AVERAGED,
    PAIRS,
    Match,
    Neighbours,
    nearest_keys,
)
from projects.bioscan_clip.scoring.specimens import SPLITS, Specimens, queries_of

logger = logging.getLogger(__name__)

IS_DU: Final = "is_du"
LINEAR_DU: Final = "linear_du"
LINEAR_FUSED: Final = "linear_fused"
METHODS: Final = (("rgb", IS_DU), ("rgb", LINEAR_DU), (AVERAGED, LINEAR_FUSED))
"""What the query is, and what the rows of metrics say under ``key``."""

MOST_FITTED: Final = 100_000_000
"""Seen keys times species up to which a linear head is fitted unless that is asked for."""

Search = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""Finds nearest keys as :func:`~projects.bioscan_clip.scoring.neighbours.nearest_keys` does."""


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
    sets: Mapping[Role, Specimens],
    nearest: Search = nearest_keys,
    linear_head: bool | None = None,
) -> pd.DataFrame:
    """Score the methods that decide between seen and unseen species.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        ``keys``, with ``is_seen``: photos of those of seen species and barcodes of the others are
        used; queries to score; and queries to tune the threshold on. The two may be the same, which
        flatters the result.
    nearest : callable, default=nearest_keys
        How nearest keys are found.
    linear_head : bool, optional
        Whether to fit a linear head. None fits one where that takes minutes, not hours: up to
        `MOST_FITTED` seen keys times species.

    Returns
    -------
    pandas.DataFrame
        Rows of query ``rgb`` and key ``is_du`` (nearest photo) or ``linear_du`` (linear head), and
        of query ``averaged`` and key ``linear_fused`` where all have both photo and barcode, as of
        :func:`score_switch`. Empty where photos, barcodes, or a kind of keys or of queries that is
        needed are missing, which a warning names; without a warning if it is unknown which keys are
        of seen species, or there is nothing to tune on.
    """
    keys, queries, tuning = sets["keys"], queries_of(sets), queries_of(sets, tuning=True)
    nothing = pd.DataFrame(columns=list(COLUMNS))
    if keys.is_seen is None or not tuning:
        return nothing
    seen = keys.is_seen.bool().cpu()
    lacking = _lacking(keys, seen, tuning, queries)
    if lacking:
        logger.warning("Seen and unseen species are not told apart: there are no %s.", lacking)
        return nothing
    seen_keys, unseen_keys = keys[seen], keys[~seen]
    both = [_Queries.of(tuning), _Queries.of(queries)]

    def label(
        wanted: torch.Tensor, among: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each query's similarity to its nearest key (Q,), and that key's labels (Q, 4)."""
        similarities, rows = nearest(wanted, among, 1)
        return similarities[:, 0], labels[rows[:, 0].to(labels.device)]

    def score(method: tuple[str, str], predict: _Predict, unseen: torch.Tensor) -> pd.DataFrame:
        candidates = []
        for one in both:
            wanted = one.features[method[0]]
            scores, labels = predict(wanted)
            others = label(wanted, unseen, unseen_keys.labels)[1]
            candidates.append(
                Candidates(scores.cpu(), labels.cpu(), others.cpu(), one.labels, one.seen)
            )
        return score_switch(method, *candidates)

    photos, barcodes = seen_keys.modalities["rgb"], unseen_keys.modalities["dna"]
    tables = [score(METHODS[0], lambda wanted: label(wanted, photos, seen_keys.labels), barcodes)]
    if _is_fitted(linear_head, seen_keys.labels[:, -1]):
        labels = seen_keys.labels.to(photos.device)
        tables.append(score(METHODS[1], fit_linear_head(photos, labels).predict, barcodes))
        fused, others = seen_keys.averaged, unseen_keys.averaged
        if fused is not None and others is not None and all(AVERAGED in q.features for q in both):
            tables.append(score(METHODS[2], fit_linear_head(fused, labels).predict, others))
    return pd.concat(tables, ignore_index=True)


def novelty(sets: Mapping[Role, Specimens], nearest: Search = nearest_keys) -> pd.DataFrame:
    """Say how well the similarity to the nearest key tells novel species from those of keys.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        ``keys``, queries, and ``novel``: specimens whose species no key has.
    nearest : callable, default=nearest_keys
        How nearest keys are found.

    Returns
    -------
    pandas.DataFrame
        Rows of split ``novel``, for pairs of `PAIRS`: average ``decision`` and level ``auroc``, the
        probability that a query of a species that some key has is nearer to its nearest key than a
        novel specimen is; and accuracies of novel specimens from order to genus. Empty where there
        are none.
    """
    keys, novel = sets["keys"], sets.get("novel")
    queries = [each for each in queries_of(sets).values() if len(each)]
    tables = [pd.DataFrame(columns=list(COLUMNS))]
    if novel is None or not len(novel) or not queries:
        return tables[0]
    labels = torch.cat([each.labels[:, -1] for each in queries])
    known = torch.isin(labels, keys.labels[:, -1]) & (labels != UNKNOWN)
    for query, key in PAIRS:
        among, of_novel = getattr(keys, key), getattr(novel, query)
        of_others = [getattr(each, query) for each in queries]
        embedded = (among, of_novel, *of_others)
        if any(each is None or each.shape[1] != among.shape[1] for each in embedded):
            continue
        similarities, rows = nearest(of_novel, among, 1)
        others = nearest(torch.cat(of_others)[known], among, 1)[0]
        scores = torch.cat([others, similarities])[:, 0].cpu().numpy()
        area = _auroc(scores, np.arange(len(scores)) < len(others))
        row = (query, key, "novel", "decision", 1, "auroc", area, np.nan, np.nan, len(scores))
        found = {Match(query, key, "novel"): Neighbours(similarities, rows)}
        accuracies = accuracy_table(keys, {"novel": novel}, found, top_k=(1,))
        tables.append(accuracies[accuracies["level"] != RANKS[-1]])
        tables.append(pd.DataFrame([row], columns=list(COLUMNS)))
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def score_switch(method: tuple[str, str], tuning: Candidates, queries: Candidates) -> pd.DataFrame:
    """Tune a method's threshold on some queries, and score it on others.

    Parameters
    ----------
    method : tuple of str
        What the rows say under ``query`` and ``key``.
    tuning : Candidates
        Queries to tune the threshold on; some of either kind must have a known species.
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
        the number of queries that it was tuned on.
    """
    threshold, tuned_on = _tune(tuning)
    taken_for_seen = queries.scores >= threshold
    predicted = torch.where(taken_for_seen[:, None], queries.if_seen, queries.if_unseen)
    # Each prediction is the only neighbour of its query.
    answers, asked, neighbours = Specimens(predicted), {}, {}
    for split, chosen in (("seen", queries.seen), ("unseen", ~queries.seen)):
        rows = chosen.nonzero()
        asked[split] = Specimens(queries.labels[chosen])
        neighbours[Match(*method, split)] = Neighbours(queries.scores[rows], rows)
    accuracies = accuracy_table(answers, asked, neighbours, top_k=(1,))

    right, n = int((taken_for_seen == queries.seen).sum()), len(queries.seen)
    decision = [("accuracy", right / n, *share_interval(right, n), n)]
    if queries.seen.any() and not queries.seen.all():
        area = _auroc(queries.scores.numpy(), queries.seen.numpy())
        decision.append(("auroc", area, np.nan, np.nan, n))
    decision.append(("threshold", threshold, np.nan, np.nan, tuned_on))
    rows_of_decision = [(*method, "all", "decision", 1, *row) for row in decision]
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


def _auroc(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score  # takes a second to import

    return float(roc_auc_score(positive, scores))


def _tune(tuning: Candidates) -> tuple[float, int]:
    """Return the best threshold for species, and the number of queries that have one."""
    truth = tuning.labels[:, -1]
    known = truth != UNKNOWN
    right = torch.stack([tuning.if_unseen[:, -1] == truth, tuning.if_seen[:, -1] == truth], dim=1)
    parts = (part[known].numpy() for part in (tuning.scores, right, tuning.seen))
    return best_threshold(*parts), int(known.sum())


@dataclass(frozen=True)
class _Queries:
    """Both splits together: embeddings (Q, D) by feature, labels (Q, 4), and which are seen."""

    features: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    seen: torch.Tensor

    @classmethod
    def of(cls, queries: Mapping[str, Specimens]) -> "_Queries":
        parts = [part for part in queries.values() if len(part)]
        features = {name: [getattr(part, name) for part in parts] for name in ("rgb", AVERAGED)}
        return cls(
            {
                name: torch.cat(values)
                for name, values in features.items()
                if all(each is not None for each in values)
            },
            torch.cat([part.labels for part in parts]).cpu(),
            torch.cat([torch.full((len(p),), split == "seen") for split, p in queries.items()]),
        )


_Predict = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _is_fitted(wanted: bool | None, species: torch.Tensor) -> bool:
    """Say whether there is a linear head for keys of these species (N,); warn if not as wanted."""
    if wanted is False:
        return False
    known = species[species != UNKNOWN]
    if not len(known):
        logger.warning("There is no linear head: no seen key has a known species.")
        return False
    classes = len(known.unique())
    if wanted is None and len(known) * classes > MOST_FITTED:
        logger.warning(
            "The linear head (linear_du) is left out: to fit one to %s keys of %s species may take "
            "hours. linear_head=true does it all the same.",
            f"{len(known):,}",
            f"{classes:,}",
        )
        return False
    return True


def _lacking(
    keys: Specimens,
    seen_key: torch.Tensor,
    tuning: Mapping[str, Specimens],
    queries: Mapping[str, Specimens],
) -> str | None:
    """Name the first thing that is needed but not there."""
    if keys.rgb is None or keys.dna is None:
        return "photos and barcodes of keys"
    if keys.rgb.shape[1] != keys.dna.shape[1]:
        return "photo and barcode embeddings of keys with the same dimension"
    if not seen_key.any() or seen_key.all():
        return "unseen keys" if seen_key.any() else "seen keys"
    for split in SPLITS:
        specimens = tuning.get(split)
        if specimens is None or not (specimens.labels[:, -1] != UNKNOWN).any():
            return f"{split} queries of known species to tune the threshold on"
    if not any(len(part) for part in queries.values()):
        return "queries"
    if any(len(part) and part.rgb is None for part in (*queries.values(), *tuning.values())):
        return "photos of queries"
    return None
