"""Nearest keys by an inverted file of FAISS: for collections whose exact search takes too long."""

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from projects.bioscan_clip.scoring.neighbours import (
    AVERAGED,
    CONCATENATED,
    Match,
    Neighbours,
    blocks,
    find_neighbours,
    with_all_keys,
)
from projects.bioscan_clip.scoring.specimens import Specimens

_ROWS_AT_ONCE: Final = 1 << 16
_SHARE_VISITED: Final = 16  # one of so many lists is searched
_CHECKED_QUERIES: Final = 1000

_Rows = Callable[[slice], torch.Tensor]
"""Returns a block of embeddings, floating point, shape (B, D)."""


def find_neighbours_approximately(
    keys: Specimens, queries: Mapping[str, Specimens], k: int
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
    neighbours: dict[Match, Neighbours] = {}
    for key, (width, key_rows) in _features(keys).items():
        index = _Index(key_rows, len(keys), width)
        for split, specimens in queries.items():
            for query, (query_width, query_rows) in _features(specimens).items():
                comparable = query_width == width and (
                    query == key or CONCATENATED not in (query, key)
                )
                if len(specimens) and comparable:
                    found = index.search(query_rows, len(specimens), k)
                    device = specimens.labels.device
                    neighbours[Match(query, key, split)] = Neighbours(
                        found.similarities.to(device), found.keys.to(device)
                    )
    return with_all_keys(keys, neighbours)


def nearest_keys_approximately(
    queries: torch.Tensor, keys: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find near keys by one feature.

    Parameters and returned values are those of
    :func:`~projects.bioscan_clip.scoring.neighbours.nearest_keys`, but that some neighbours are
    not the nearest.
    """
    index = _Index(keys.__getitem__, len(keys), keys.shape[1])
    found = index.search(queries.__getitem__, len(queries), k)
    return found.similarities.to(queries.device), found.keys.to(queries.device)


def recall(
    keys: Specimens,
    queries: Mapping[str, Specimens],
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


class _Index:
    """Keys (N, D), sorted into lists."""

    def __init__(self, keys: _Rows, count: int, width: int) -> None:
        lists = max(1, min(4 * isqrt(count), count // 39))  # FAISS wants 39 keys a centre
        self._keys = count
        index: Any = faiss.index_factory(width, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = -(-lists // _SHARE_VISITED)
        self._index = index
        sampled = slice(None, None, max(1, count // (64 * lists)))
        self._index.train(_unit(keys(sampled)))
        for rows in blocks(count, _ROWS_AT_ONCE):
            self._index.add(_unit(keys(rows)))

    def search(self, queries: _Rows, count: int, k: int) -> Neighbours:
        parts = [
            self._search_block(_unit(queries(rows)), min(k, self._keys))
            for rows in blocks(count, _ROWS_AT_ONCE)
        ]
        similarities, keys = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Neighbours(torch.from_numpy(similarities), torch.from_numpy(keys))

    def _search_block(
        self, unit_queries: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        similarities, rows = self._index.search(unit_queries, k)
        too_few = (rows < 0).any(axis=1)  # the visited lists held fewer than k keys
        if too_few.any():
            # FAISS says nothing of its arguments to type checkers.
            everywhere = faiss.SearchParametersIVF(nprobe=self._index.nlist)  # type: ignore[call-arg]
            similarities[too_few], rows[too_few] = self._index.search(
                unit_queries[too_few], k, params=everywhere
            )
        return similarities, rows


def _features(specimens: Specimens) -> dict[str, tuple[int, _Rows]]:
    """Return the dimension of each feature, and what gives a block of it."""
    parts = specimens.modalities
    features: dict[str, tuple[int, _Rows]] = {
        name: (values.shape[1], values.__getitem__) for name, values in parts.items()
    }
    if "rgb" in parts and "dna" in parts:
        photo, barcode = parts["rgb"], parts["dna"]
        if photo.shape[1] == barcode.shape[1]:
            features[AVERAGED] = (
                photo.shape[1],
                lambda rows: photo[rows].float() + barcode[rows].float(),
            )
        features[CONCATENATED] = (
            photo.shape[1] + barcode.shape[1],
            lambda rows: torch.cat([photo[rows].float(), barcode[rows].float()], dim=1),
        )
    return features


def _unit(embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = F.normalize(embeddings.float(), dim=1).cpu().numpy()
    return unit
