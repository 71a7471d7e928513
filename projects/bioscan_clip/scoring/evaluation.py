"""Nearest-neighbour taxonomy on embeddings: the score that BIOSCAN-CLIP is judged by.

A query specimen takes the labels of its nearest key specimens (Gong et al., CLIBD, ICLR 2025).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

from projects.bioscan_clip.arguments import check_choice
from projects.bioscan_clip.datasets.schema import Role
from projects.bioscan_clip.scoring.accuracy import accuracy_table, mistake_table
from projects.bioscan_clip.scoring.confidence import Trust, confidence_table, trusted_names
from projects.bioscan_clip.scoring.neighbours import (
    Match,
    Neighbours,
    find_neighbours,
    nearest_keys,
)
from projects.bioscan_clip.scoring.open_world import Search as NearestKeys
from projects.bioscan_clip.scoring.open_world import novelty, open_world
from projects.bioscan_clip.scoring.specimens import Specimens, queries_of

logger = logging.getLogger(__name__)

Search = Literal["exact", "approximate"]


@dataclass(frozen=True)
class Evaluation:
    """Everything that scoring found.

    Attributes
    ----------
    sets : mapping of Role to Specimens
        What was scored.
    neighbours : mapping of Match to Neighbours
        Nearest keys of every pair of features and split.
    metrics : pandas.DataFrame
        One row per number: columns ``query``, ``key``, ``split``, ``average``, ``k``, ``level``,
        ``value``, ``low``, ``high`` (95% confidence interval, NaN where there is none) and ``n``
        (what is averaged over: queries, or classes).
    trust : mapping of tuple of str to Trust
        Names of queries with a confidence, by pair of features; empty where there was nothing to
        calibrate on.
    """

    sets: Mapping[Role, Specimens]
    neighbours: Mapping[Match, Neighbours]
    metrics: pd.DataFrame
    trust: Mapping[tuple[str, str], Trust] = field(default_factory=dict)

    @property
    def keys(self) -> Specimens:
        """Key specimens."""
        return self.sets["keys"]

    @property
    def queries(self) -> dict[str, Specimens]:
        """Query specimens by split, ``seen`` and ``unseen``, as far as there are any."""
        return queries_of(self.sets)

    def numbers(self) -> dict[str, float]:
        """Return metrics by name, ``{query}_to_{key}/{split}/{average}/top{k}/{level}``."""
        return _named(self.metrics)


def evaluate(
    sets: Mapping[Role, Specimens],
    top_k: Sequence[int] = (1, 3, 5),
    search: Search = "exact",
    linear_head: bool | None = None,
) -> Evaluation:
    """Score queries against keys, for every pair of query and key features.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        ``keys``, and the queries ``seen`` and ``unseen``, as far as there are any. If keys know
        whether they are of seen species, and there are other queries to tune thresholds by, as
        ``tuning_seen`` and ``tuning_unseen``, the methods of
        :func:`~projects.bioscan_clip.scoring.open_world.open_world` are scored too.
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.
    search : {"exact", "approximate"}, default="exact"
        Whether all keys are compared, or FAISS finds most of the nearest sooner; its recall is
        logged.
    linear_head : bool, optional
        Whether to fit a linear classifier for the open-world methods. None fits one where that
        takes minutes, not hours.

    Returns
    -------
    Evaluation
        Neighbours and metrics.

    Raises
    ------
    ValueError
        If `top_k` is not positive, `search` is none of these, or there are no keys.
    """
    keys, queries = sets["keys"], queries_of(sets)
    check_options(top_k, search)
    _check_keys(keys)
    if search == "exact":
        neighbours, nearest = find_neighbours(keys, queries, max(top_k)), nearest_keys
    else:
        # Only those who ask for it wait for FAISS.
        from projects.bioscan_clip.scoring import approximate

        neighbours = approximate.find_neighbours_approximately(keys, queries, max(top_k))
        nearest = approximate.nearest_keys_approximately
        share = 100 * approximate.recall(keys, queries, neighbours, max(top_k))
        logger.warning(
            "Approximate search found %.1f%% of the exact %d nearest keys.", share, max(top_k)
        )
    trust = trusted_names(sets, nearest)
    metrics = _joined(
        accuracy_table(keys, queries, neighbours, top_k),
        mistake_table(keys, queries, neighbours),
        corruption_table(keys, queries, nearest, top_k),
        open_world(sets, nearest, linear_head),
        novelty(sets, nearest),
        confidence_table(trust),
    )
    return Evaluation(sets, neighbours, metrics, trust)


def corruption_table(
    keys: Specimens, queries: Mapping[str, Specimens], nearest: NearestKeys, top_k: Sequence[int]
) -> pd.DataFrame:
    """Score queries whose barcodes are damaged, against barcodes of keys as they are.

    Returns
    -------
    pandas.DataFrame
        As of :func:`~projects.bioscan_clip.scoring.accuracy.accuracy_table`, with ``dna_`` and the
        name of the corruption as query; empty where there are no damaged barcodes.
    """
    found = {
        Match(f"dna_{name}", "dna", split): Neighbours(*nearest(embedded, keys.dna, max(top_k)))
        for split, specimens in queries.items()
        for name, embedded in specimens.corrupted.items()
        if keys.dna is not None
    }
    return accuracy_table(keys, queries, found, top_k)


def check_options(top_k: Sequence[int], search: str) -> None:
    """Say what is wrong with options before any work is done.

    Raises
    ------
    ValueError
        As :func:`evaluate`.
    """
    if not top_k or not all(isinstance(k, int) and k >= 1 for k in top_k):
        raise ValueError(f"`top_k` must hold whole numbers from 1 on, but is {list(top_k)}.")
    check_choice("search", search, get_args(Search))


def evaluate_embeddings(
    keys: Specimens | Mapping[str, Any],
    queries: Mapping[str, Specimens | Mapping[str, Any]],
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
    keys : Specimens or mapping
        Key specimens: ``labels`` (N, 4) and any of ``rgb``, ``dna``, ``text`` (N, D).
    queries : mapping of str to Specimens or mapping
        Query specimens by split, as ``{"seen": ..., "unseen": ...}``.
    top_k : sequence of int, default=(1, 3, 5)
        Numbers of neighbours among which the right label counts.

    Returns
    -------
    dict of str to float
        Accuracies in [0, 1], named ``{query}_to_{key}/{split}/{micro|macro}/top{k}/{rank}``, with
        ``harmonic`` as split for the harmonic mean of ``seen`` and ``unseen``; and how wrong the
        nearest keys are, as ``{query}_to_{key}/{split}/mistake/top1/{level}`` (see
        :func:`~projects.bioscan_clip.scoring.accuracy.mistake_table`).

    Raises
    ------
    ValueError
        If shapes do not fit, an embedding is not finite, `top_k` is not positive, or there are no
        keys.
    """
    check_options(top_k, "exact")
    key_set = Specimens.of(keys)
    query_sets = {split: Specimens.of(values) for split, values in queries.items()}
    _check_keys(key_set)
    neighbours = find_neighbours(key_set, query_sets, max(top_k))
    metrics = _joined(
        accuracy_table(key_set, query_sets, neighbours, top_k),
        mistake_table(key_set, query_sets, neighbours),
    )
    return _named(metrics)


def _check_keys(keys: Specimens) -> None:
    if len(keys) == 0:
        raise ValueError("There are no keys to search.")


def _joined(*tables: pd.DataFrame) -> pd.DataFrame:
    filled = [table for table in tables if not table.empty]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _named(metrics: pd.DataFrame) -> dict[str, float]:
    columns = ("query", "key", "split", "average", "k", "level", "value")
    return {
        f"{query}_to_{key}/{split}/{average}/top{k}/{level}": float(value)
        for query, key, split, average, k, level, value in zip(
            *(metrics[name] for name in columns), strict=True
        )
    }
