"""Nearest keys by an inverted file of FAISS: for collections whose exact search takes too long."""

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.features import AVERAGED, CONCATENATED
from projects.bioscan_clip.scoring.neighbours import Match, find_neighbours, with_all_keys
from projects.bioscan_clip.scoring.search import Neighbours, blocks

_ROWS_AT_ONCE: Final = 1 << 16
_SHARE_VISITED: Final = 16  # one of so many lists is searched
_CHECKED_QUERIES: Final = 1000


def find_neighbours_approximately(
    keys: Embeddings, queries: Mapping[str, Embeddings], k: int
) -> dict[Match, Neighbours]:
    """Find near keys by all pairs of features, most of them the nearest.

    Keys of each feature are sorted into about ``4 sqrt(N)`` lists around centres, of which one in
    16 is searched for a query. Keys are held in half precision.

    Parameters
    ----------
    keys, queries, k
        As for :func:`~projects.bioscan_clip.scoring.neighbours.find_neighbours`.

    Returns
    -------
    dict of Match to Neighbours
        As there, but that rows of some neighbours are not the nearest.
    """
    k = min(k, len(keys))
    neighbours: dict[Match, Neighbours] = {}
    for key, width in _features(keys).items():
        index = _index(keys, key, width)
        for split, specimens in queries.items():
            for query, query_width in _features(specimens).items():
                comparable = query_width == width and (
                    query == key or CONCATENATED not in (query, key)
                )
                if len(specimens) and comparable:
                    neighbours[Match(query, key, split)] = _search(index, specimens, query, k)
    return with_all_keys(keys, neighbours)


def recall(
    keys: Embeddings,
    queries: Mapping[str, Embeddings],
    approximate: Mapping[Match, Neighbours],
    k: int,
) -> float:
    """Return the share of the exact k nearest keys that an approximate search found.

    Parameters
    ----------
    keys, queries
        What was searched.
    approximate : mapping of Match to Neighbours
        What was found.
    k : int
        Neighbours per query.

    Returns
    -------
    float
        Mean over pairs of features, splits and at most 1,000 queries of each, evenly spaced.
    """
    checked = {
        split: torch.arange(len(specimens))[:: -(-len(specimens) // _CHECKED_QUERIES)]
        for split, specimens in queries.items()
        if len(specimens)
    }
    exact = find_neighbours(
        keys, {split: queries[split][rows] for split, rows in checked.items()}, k
    )
    shares = []
    for match, near in exact.items():
        found = approximate[match].keys[checked[match.split]]
        shares.append((near.keys[:, :, None] == found[:, None]).any(dim=2).double().mean().item())
    return float(np.mean(shares))


def _features(embeddings: Embeddings) -> dict[str, int]:
    """Return the dimension of each feature."""
    widths = {name: values.shape[1] for name, values in embeddings.modalities.items()}
    if {"rgb", "dna"} <= set(widths):
        if widths["rgb"] == widths["dna"]:
            widths[AVERAGED] = widths["rgb"]
        widths[CONCATENATED] = embeddings.modalities["rgb"].shape[1] + widths["dna"]
    return widths


def _unit(embeddings: Embeddings, feature: str, rows: slice) -> npt.NDArray[np.float32]:
    """Return a block of one feature at unit length."""
    parts = {name: values[rows].float() for name, values in embeddings.modalities.items()}
    if feature == AVERAGED:
        values = parts["rgb"] + parts["dna"]
    elif feature == CONCATENATED:
        values = torch.cat([parts["rgb"], parts["dna"]], dim=1)
    else:
        values = parts[feature]
    unit: npt.NDArray[np.float32] = F.normalize(values, dim=1).cpu().numpy()
    return unit


def _index(keys: Embeddings, feature: str, width: int) -> Any:
    lists = max(1, min(4 * isqrt(len(keys)), len(keys) // 39))  # FAISS wants 39 keys a centre
    index: Any = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.nprobe = -(-lists // _SHARE_VISITED)
    learnt_from = torch.arange(len(keys))[:: max(1, len(keys) // (64 * lists))]
    index.train(_unit(keys[learnt_from], feature, slice(None)))
    for rows in blocks(len(keys), _ROWS_AT_ONCE):
        index.add(_unit(keys, feature, rows))
    return index


def _search(index: Any, queries: Embeddings, feature: str, k: int) -> Neighbours:
    parts = [
        _search_block(index, _unit(queries, feature, rows), k)
        for rows in blocks(len(queries), _ROWS_AT_ONCE)
    ]
    similarities = torch.from_numpy(np.concatenate([values for values, _ in parts]))
    rows = torch.from_numpy(np.concatenate([rows for _, rows in parts]))
    device = queries.labels.device
    return Neighbours(similarities.to(device), rows.to(device))


def _search_block(
    index: Any, unit_queries: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    similarities, rows = index.search(unit_queries, k)
    too_few = (rows < 0).any(axis=1)  # the visited lists held fewer than k keys
    if too_few.any():
        # FAISS says nothing of its arguments to type checkers.
        everywhere = faiss.SearchParametersIVF(nprobe=index.nlist)  # type: ignore[call-arg]
        similarities[too_few], rows[too_few] = index.search(
            unit_queries[too_few], k, params=everywhere
        )
    return similarities, rows
