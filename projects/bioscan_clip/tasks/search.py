"""Nearest keys of each query, by cosine similarity."""

import torch
from torch.nn import functional as F

_QUERIES_AT_ONCE = 1024


def nearest_keys(
    queries: torch.Tensor, keys: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the `k` nearest keys of each query, exactly.

    Parameters
    ----------
    queries : torch.Tensor
        Floating point, shape ``(Q, D)``; need not be normalised.
    keys : torch.Tensor
        Floating point, shape ``(N, D)``; need not be normalised.
    k : int
        Neighbours per query; at most ``N`` are returned.

    Returns
    -------
    similarities : torch.Tensor
        float32, shape ``(Q, min(k, N))``, cosine similarities in descending order.
    indices : torch.Tensor
        int64, shape ``(Q, min(k, N))``, rows of `keys`.
    """
    k = min(k, len(keys))
    keys = F.normalize(keys.float(), dim=1)
    found = [
        (F.normalize(block.float(), dim=1) @ keys.T).topk(k, dim=1)
        for block in queries.split(_QUERIES_AT_ONCE)
    ]
    similarities = torch.cat([block.values for block in found])
    indices = torch.cat([block.indices for block in found])
    return similarities, indices
