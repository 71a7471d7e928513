"""A contrastive loss that knows the taxonomy, over the batches of all processes."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.tasks.losses import ChunkedContrastiveLoss, Pair, gather


class HierarchicalContrastiveLoss(ChunkedContrastiveLoss):
    r"""Contrastive loss in which specimens that share a taxon are positives, rank by rank.

    The levels :math:`l` are order, family, genus, species and the specimen itself. At each, those
    of the B specimens whose taxon is known, :math:`K`, are compared with one another. With
    :math:`P(i)` those of them that share the taxon of i, a pair of modalities has the loss

    .. math:: L_l = -\tfrac{1}{2|K|} \sum_{i \in K} \tfrac{1}{|P(i)|} \sum_{j \in P(i)} \left[
              \log \mathrm{softmax}_{k \in K}(S_{ik})_j + \log \mathrm{softmax}_{k \in K}(S_{ki})_j
              \right]

    and adds the weighted mean of :math:`L_l`. These are supervised contrastive losses (Khosla et
    al. 2020, equation 2) between two modalities at several levels, as in Zhang et al. (CVPR 2022,
    arXiv 2204.13207) and CLiBD-HiR (arXiv 2603.25573); the level of the specimen is there as most
    of BIOSCAN has no species. Every specimen of a batch must have every modality of the loss pairs.

    Parameters
    ----------
    weights : sequence of float, default=(0.1, 0.2, 0.3, 0.4, 1.0)
        Of order, family, genus, species and specimen.
    constrained : bool, default=False
        Whether a level counts no less than a coarser one: :math:`\max_{k \le l} L_k` takes the
        place of :math:`L_l`, since two specimens of one species are of one genus, too.
    chunk_size : int, default=1024
        As of :class:`ChunkedContrastiveLoss`.

    Raises
    ------
    ValueError
        If there are not five weights, one is negative, or all are 0.
    """

    def __init__(
        self,
        weights: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 1.0),
        constrained: bool = False,
        chunk_size: int = 1024,
    ) -> None:
        super().__init__(chunk_size)
        if len(weights) != len(RANKS) + 1 or min(weights) < 0 or not sum(weights):
            raise ValueError(
                f"`weights` must be five numbers from 0 on, of {', '.join(RANKS)} and specimen, "
                f"not all 0, but is {list(weights)}."
            )
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.constrained = constrained

    def labels_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the labels that decide about positives; int64, shape ``(B, 4)``."""
        labels: torch.Tensor = batch["labels"]
        return labels

    def _pair_loss(self, embeddings: Pair, ids: Pair, scale: torch.Tensor) -> torch.Tensor:
        labels = ids[0]
        levels = []
        for taxa in (*labels.T, torch.arange(len(labels), device=labels.device)):
            known = taxa != UNKNOWN
            first, second = (values[known] for values in embeddings)
            ways = [
                self._share(rows, partial(_cross_entropy, rows, columns, taxa[known], scale))
                for rows, columns in ((first, second), (second, first))
            ]
            levels.append((ways[0] + ways[1]) / 2)
        losses = torch.stack(levels)
        if self.constrained:
            whole = gather(losses.detach()[None]).mean(0)
            losses = losses[whole.cummax(0).indices]
        return (losses.new_tensor(self.weights) * losses).sum()


def _cross_entropy(
    rows: torch.Tensor,
    columns: torch.Tensor,
    taxa: torch.Tensor,
    scale: torch.Tensor,
    chunk: torch.Tensor,
) -> torch.Tensor:
    """Sum over a chunk of rows, whose positives are the columns of the same taxon."""
    same = taxa[chunk, None] == taxa
    with torch.autocast(rows.device.type, enabled=False):
        targets = same / same.sum(dim=1, keepdim=True)
        return F.cross_entropy(scale * rows[chunk] @ columns.T, targets, reduction="sum")
