"""SigLIP's loss, over the batches of all processes."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from projects.bioscan_clip.tasks.losses import ChunkedContrastiveLoss, Pair


class SigLIPLoss(ChunkedContrastiveLoss):
    r"""A loss that judges of each photo and each barcode, say, by itself whether they are a pair.

    Of the B specimens that have both modalities, with :math:`S_{ij} = s \, a_i \cdot b_j + \beta`
    and :math:`z_{ij}` 1 where i and j are the same and -1 elsewhere, a pair of modalities adds

    .. math:: -\tfrac{1}{B} \sum_{ij} \log \sigma(z_{ij} S_{ij})

    (Zhai et al., ICCV 2023, arXiv 2303.15343, section 3.2). The bias :math:`\beta` is learned, one
    for all pairs of modalities; checkpoints hold it as ``loss_fn.bias``. The paper begins with a
    logit scale of 10 (``task.init_logit_scale``).

    Parameters
    ----------
    chunk_size : int, default=1024
        As of :class:`ChunkedContrastiveLoss`.
    init_bias : float, default=-10.0
        The bias at the beginning, when nearly no two are a pair to the model.
    """

    def __init__(self, chunk_size: int = 1024, init_bias: float = -10.0) -> None:
        super().__init__(chunk_size)
        self.bias = nn.Parameter(torch.tensor(init_bias))

    def _pair_loss(self, embeddings: Pair, ids: Pair, scale: torch.Tensor) -> torch.Tensor:
        first, second = embeddings
        return self._share(first, partial(_sigmoid_loss, first, second, scale, self.bias))


def _sigmoid_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    chunk: torch.Tensor,
) -> torch.Tensor:
    """Sum over a chunk of the rows of `first`, whose positives have the same number."""
    with torch.autocast(first.device.type, enabled=False):
        logits = scale * first[chunk] @ second.T + bias
        # log sigmoid(x) = x - softplus(x), and log sigmoid(-x) = -softplus(x).
        return F.softplus(logits).sum() - logits.gather(1, chunk[:, None]).sum()
