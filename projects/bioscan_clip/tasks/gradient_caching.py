"""Train with batches whose activations do not fit in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def encode_in_chunks(
    encode: Callable[[dict[str, Any]], torch.Tensor], batch: dict[str, Any], chunk_size: int
) -> torch.Tensor:
    """Encode a batch in chunks, of which only one at a time keeps its activations.

    This is gradient caching (Gao et al. 2021, arXiv:2101.06983, section 3.2): chunks are encoded
    without keeping anything but embeddings; once the loss has its gradient by the embeddings of the
    whole batch, each chunk is encoded again, with the random numbers of the first time, and goes
    backward. Here a chunk is a checkpoint of autograd, so this happens within one ordinary
    backward pass: gradients of parameters come once, in full, to DDP, gradient scalers and hooks.

    Parameters
    ----------
    encode : callable
        Encodes a batch; shape ``(B, D)``. A row must not depend on the other rows.
    batch : dict
        Tensors of shape ``(B, ...)``, of which chunks are taken; anything else goes to all chunks.
    chunk_size : int
        Specimens per chunk.

    Returns
    -------
    torch.Tensor
        Shape ``(B, D)``.
    """
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    specimens = len(next(iter(tensors.values())))
    embeddings = []
    for start in range(0, specimens, chunk_size):
        # Else chunks share autocast's copies of parameters, and their gradients are summed in half
        # precision.
        torch.clear_autocast_cache()
        part = {name: value[start : start + chunk_size] for name, value in tensors.items()}
        embeddings.append(checkpoint(encode, batch | part, use_reentrant=False))
    return torch.cat(embeddings)
