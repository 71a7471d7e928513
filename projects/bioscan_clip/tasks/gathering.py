"""Put the batches of all processes together."""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F


def gather(local: torch.Tensor) -> torch.Tensor:
    """Concatenate a tensor over all processes, in the order of their ranks.

    Gradients flow back to the process that a row came from, summed over the processes that used
    it. Every process must call this equally often, and go backward through it.

    Parameters
    ----------
    local : torch.Tensor
        Shape ``(B, ...)``; B may differ between processes.

    Returns
    -------
    torch.Tensor
        Shape ``(sum of B, ...)``; `local` itself where there is one process.
    """
    if processes() == 1:
        return local
    sizes = [torch.zeros((), dtype=torch.int64, device=local.device) for _ in range(processes())]
    dist.all_gather(sizes, torch.full_like(sizes[0], len(local)))
    lengths = torch.stack(sizes).tolist()
    missing = max(lengths) - len(local)
    padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, missing))
    parts: torch.Tensor = _Gather.apply(padded.contiguous())
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is."""
    return dist.get_rank() if processes() > 1 else 0


class _Gather(torch.autograd.Function):
    """Stack tensors of one shape; as PyTorch's own, which is deprecated, does."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(local) for _ in range(processes())]
        dist.all_gather(parts, local)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[rank()]
