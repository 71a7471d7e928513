"""Nearest-neighbour taxonomy on embeddings: the score that BIOSCAN-CLIP is judged by.

A query specimen takes the labels of its nearest key specimens (Gong et al., CLIBD, ICLR 2025).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch

from projects.bioscan_clip.scoring.accuracy import accuracy_table
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.mistakes import mistake_table
from projects.bioscan_clip.scoring.neighbours import Match, find_neighbours
from projects.bioscan_clip.scoring.open_world import open_world
from projects.bioscan_clip.scoring.search import Neighbours

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Everything that scoring found.

    Attributes
    ----------
    keys : Embeddings
        Key specimens.
    queries : mapping of str to Embeddings
        Query specimens by split, ``seen`` and ``unseen``.
    neighbours : mapping of Match to Neighbours
        Nearest keys of every pair of features and split.
    metrics : pandas.DataFrame
        One row per number: columns ``query``, ``key``, ``split``, ``average``, ``k``, ``level``,
        ``value``, ``low``, ``high`` (95% confidence interval, NaN where there is none) and ``n``
        (what is averaged over: queries, or classes).
    """

    keys: Embeddings
    queries: Mapping[str, Embeddings]
    neighbours: Mapping[Match, Neighbours]
    metrics: pd.DataFrame

    def numbers(self) -> dict[str, float]:
        """Return metrics by name, ``{query}_to_{key}/{split}/{average}/top{k}/{level}``."""
        rows = self.metrics
        names = (
            f"{query}_to_{key}/{split}/{average}/top{k}/{level}"
            for query, key, split, average, k, level in zip(
                *(rows[name] for name in ("query", "key", "split", "average", "k", "level")),
                strict=True,
            )
        )
        return dict(zip(names, rows["value"].astype(float), strict=True))


def evaluate(
    keys: Embeddings,
    queries: Mapping[str, Embeddings],
    top_k: Sequence[int] = (1, 3, 5),
    search: Literal["exact", "approximate"] = "exact",
    tuning: Mapping[str, Embeddings] | None = None,
    seen_key: torch.Tensor | None = None,
) -> Evaluation:
    """Score queries against keys, for every pair of query and key features.

    Parameters
    ----------
    keys : Embeddings
        Key specimens.
    queries : mapping of str to Embeddings
        Query specimens by split.
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.
    search : {"exact", "approximate"}, default="exact"
        Whether all keys are compared, or FAISS finds most of the nearest sooner; its recall is
        logged.
    tuning : mapping of str to Embeddings, optional
        Queries that settle the thresholds of
        :func:`~projects.bioscan_clip.scoring.open_world.open_world`, by split; not those to
        be scored.
    seen_key : torch.Tensor, optional
        bool, shape ``(N,)``; which keys are of species seen in training. Without it, or without
        `tuning`, methods that need to know are left out.

    Returns
    -------
    Evaluation
        Neighbours and metrics.

    Raises
    ------
    ValueError
        If `top_k` is not positive, `search` is none of these, or there are no keys.
    """
    if not top_k or min(top_k) < 1:
        raise ValueError(f"`top_k` must hold positive numbers, but is {list(top_k)}.")
    if search not in ("exact", "approximate"):
        raise ValueError(f"`search` must be exact or approximate, but is {search!r}.")
    if len(keys) == 0:
        raise ValueError("There are no keys to search.")
    if search == "exact":
        neighbours = find_neighbours(keys, queries, max(top_k))
    else:
        neighbours = _find_approximately(keys, queries, max(top_k))
    tables = [
        accuracy_table(keys, queries, neighbours, top_k),
        mistake_table(keys, queries, neighbours),
    ]
    if tuning and seen_key is not None:
        tables.append(open_world(keys, seen_key, tuning, queries))
    return Evaluation(keys, queries, neighbours, join(tables))


def join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of metrics together, of which some may be empty."""
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _find_approximately(
    keys: Embeddings, queries: Mapping[str, Embeddings], k: int
) -> dict[Match, Neighbours]:
    # Only those who ask for it wait for FAISS.
    from projects.bioscan_clip.scoring.approximate import (
        find_neighbours_approximately,
        recall,
    )

    neighbours = find_neighbours_approximately(keys, queries, k)
    share = recall(keys, queries, neighbours, k)
    logger.warning("Approximate search found %.1f%% of the exact %d nearest keys.", 100 * share, k)
    return neighbours


def evaluate_embeddings(
    keys: Embeddings | Mapping[str, Any],
    queries: Mapping[str, Embeddings | Mapping[str, Any]],
    top_k: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """Score queries against keys, for every pair of query and key features.

    Queries are ``rgb``, ``dna``, ``text``, ``averaged`` and ``concatenated`` (the mean and the
    concatenation of a specimen's photo and barcode embeddings); keys are the same and ``all``, in
    which a key specimen stands once for each of its modalities. Pairs of unequal dimension have no
    similarity and are left out.

    A query without a label at a rank is not counted at that rank, and a key without one is never a
    correct answer. Where no query has a label, there is no number.

    Parameters
    ----------
    keys : Embeddings or mapping
        Key specimens: ``labels`` (N, 4) and any of ``rgb``, ``dna``, ``text`` (N, D).
    queries : mapping of str to Embeddings or mapping
        Query specimens by split, as ``{"seen": ..., "unseen": ...}``.
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.

    Returns
    -------
    dict of str to float
        Accuracies in [0, 1], named ``{query}_to_{key}/{split}/{micro|macro}/top{k}/{rank}``, with
        ``harmonic`` as split for the harmonic mean of ``seen`` and ``unseen``; and how wrong the
        nearest keys are, as ``{query}_to_{key}/{split}/mistake/top1/{level}`` (see
        :func:`~projects.bioscan_clip.scoring.mistakes.mistake_table`).

    Raises
    ------
    ValueError
        If shapes do not fit, an embedding is not finite, `top_k` is not positive, or there are no
        keys.
    """
    query_sets = {split: Embeddings.of(values) for split, values in queries.items()}
    return evaluate(Embeddings.of(keys), query_sets, top_k).numbers()
