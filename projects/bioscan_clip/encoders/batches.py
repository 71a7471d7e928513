"""Batches whose embeddings do not depend on what else is in them."""

from typing import Any

import torch


def in_eights(batch: dict[str, Any]) -> dict[str, Any]:
    """Repeat a batch's first row until there is a multiple of eight.

    Kernels sum in another order for the rows that are left over from their blocks. Without such
    rows, an embedding on a CPU does not depend on the batch it came in, to the last bit, and
    neither do the neighbours found by it.

    Parameters
    ----------
    batch : dict
        Tensors with one row per specimen, shape ``(B, ...)``; all else is left as it is.

    Returns
    -------
    dict
        Tensors of shape ``(B', ...)``, B' the next multiple of eight.
    """
    rows = len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
    if rows % 8 == 0:
        return batch
    positions = torch.arange(rows + -rows % 8)
    positions[rows:] = 0
    return {
        name: value[positions.to(value.device)] if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
