"""Nearest keys of each query, by cosine similarity, in memory that does not grow with the keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional as F

KEYS_AT_ONCE: Final = 8192
QUERIES_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class Neighbours:
    """The nearest keys of each query, nearest first.

    Attributes
    ----------
    similarities : torch.Tensor
        float32, shape ``(Q, K)``, cosine similarities in descending order.
    keys : torch.Tensor
        int64, shape ``(Q, K)``, rows of the keys.
    """

    similarities: torch.Tensor
    keys: torch.Tensor


class Nearest:
    """The nearest keys so far, while keys come block by block.

    Parameters
    ----------
    queries : int
        Number of queries.
    k : int
        Neighbours to keep of each.
    device : torch.device
        Where similarities will come from.
    """

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self._similarities = torch.full((queries, k), -torch.inf, device=device)
        self._keys = torch.zeros((queries, k), dtype=torch.int64, device=device)

    def add(self, similarities: torch.Tensor, rows: slice, first_key: int) -> None:
        """Take in a block of similarities.

        Parameters
        ----------
        similarities : torch.Tensor
            float32, shape ``(len(rows), B)``.
        rows : slice
            The queries that they are of.
        first_key : int
            Row of the first of the B keys.
        """
        k = self._keys.shape[1]
        block = similarities.topk(min(k, similarities.shape[1]), dim=1)
        values = torch.cat([self._similarities[rows], block.values], dim=1)
        keys = torch.cat([self._keys[rows], block.indices + first_key], dim=1)
        best = values.topk(k, dim=1)
        self._similarities[rows] = best.values
        self._keys[rows] = keys.gather(1, best.indices)

    def found(self) -> Neighbours:
        """Return the nearest keys of all that came."""
        return Neighbours(self._similarities, self._keys)


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover `length` rows, `size` at a time."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def nearest_keys(
    queries: torch.Tensor, keys: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the `k` nearest keys of each query, exactly.

    Parameters
    ----------
    queries : torch.Tensor
        Floating point, shape ``(Q, D)``; need not be normalised.
    keys : torch.Tensor
        Floating point, shape ``(N, D)``; need not be normalised. May be of half precision, or lie
        in a file mapped to memory: only a block of rows is converted at a time.
    k : int
        Neighbours per query; at most ``N`` are returned.

    Returns
    -------
    similarities : torch.Tensor
        float32, shape ``(Q, min(k, N))``, cosine similarities in descending order.
    indices : torch.Tensor
        int64, shape ``(Q, min(k, N))``, rows of `keys`.
    """
    nearest = Nearest(len(queries), min(k, len(keys)), queries.device)
    for key_rows in blocks(len(keys), KEYS_AT_ONCE):
        unit_keys = F.normalize(keys[key_rows].float(), dim=1)
        for rows in blocks(len(queries), QUERIES_AT_ONCE):
            unit_queries = F.normalize(queries[rows].float(), dim=1)
            nearest.add(unit_queries @ unit_keys.T, rows, key_rows.start)
    found = nearest.found()
    return found.similarities, found.keys
