"""Batches beyond memory, encoded a chunk at a time."""

from collections.abc import Callable
from typing import Any, Final

import torch
from mmlearn.tasks import ContrastivePretraining
from torch import nn
from torch.utils.checkpoint import checkpoint

from projects.bioscan_clip.arguments import check_at_least

_BATCH_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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


def check_chunks(task: ContrastivePretraining, chunk_size: int) -> None:
    """Refuse a chunk size that is none, and a task whose batches cannot be encoded in chunks."""
    check_at_least("gradient_cache_chunk", chunk_size, 1)
    if task.auxiliary_tasks:
        raise ValueError(
            "`gradient_cache_chunk` cannot be combined with auxiliary tasks, which encode the "
            "whole batch at once."
        )
    for name, module in task.named_modules():
        if isinstance(module, _BATCH_NORMS):
            raise ValueError(
                f"`gradient_cache_chunk` cannot be used with batch normalisation ({name}), which "
                "would normalise chunks rather than batches."
            )
