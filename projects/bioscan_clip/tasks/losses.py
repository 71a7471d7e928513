"""A contrastive loss that knows which specimens belong together."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmlearn.datasets.core import Modalities
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch import nn
from torch.nn import functional as F

from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.tasks.gathering import gather


class LabelAwareContrastiveLoss(nn.Module):
    r"""Contrastive loss in which specimens of one BIN, or species, are each other's positives.

    For similarities :math:`S_{ij} = s \, a_i \cdot b_j` and targets :math:`T_{ij} = 1` where
    specimens i and j share their label or are the same one, each pair of modalities contributes

    .. math:: \tfrac{1}{2} \left[ \mathrm{CE}(S, T) + \mathrm{CE}(S^\top, T) \right],
              \quad \mathrm{CE}(S, T) = -\tfrac{1}{N} \sum_{ij} T_{ij} \log \mathrm{softmax}(S_i)_j

    as CLIBD's published code does. In a batch of specimens with distinct labels this is the usual
    contrastive loss. Every specimen of a batch must have every modality of the loss pairs.

    Parameters
    ----------
    positives : {"bin", "species"}, default="bin"
        The label that makes two specimens positives. Those without one are only their own.
    normalize_targets : bool, default=False
        Whether each row of targets is divided by its number of positives, so that a specimen of a
        common taxon weighs as much as one of a rare taxon. The published code does not.

    Raises
    ------
    ValueError
        If `positives` is neither ``"bin"`` nor ``"species"``.
    """

    def __init__(
        self, positives: Literal["bin", "species"] = "bin", normalize_targets: bool = False
    ) -> None:
        super().__init__()
        if positives not in ("bin", "species"):
            raise ValueError(f"`positives` must be 'bin' or 'species', but is {positives!r}.")
        self.positives = positives
        self.normalize_targets = normalize_targets

    def labels_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the labels that decide about positives; int64, shape ``(B,)``."""
        labels: torch.Tensor = batch["bin"] if self.positives == "bin" else batch["labels"][:, 3]
        return labels

    def forward(
        self,
        embeddings: Mapping[str, torch.Tensor],
        labels: torch.Tensor,
        logit_scale: torch.Tensor,
        modality_loss_pairs: Sequence[LossPairSpec],
    ) -> torch.Tensor:
        """Compute the loss over the batches of all processes.

        Parameters
        ----------
        embeddings : mapping of str to torch.Tensor
            Normalised embeddings by mmlearn's name (``rgb_embedding``), shape ``(B, D)``.
        labels : torch.Tensor
            int64, shape ``(B,)``, -1 if unknown.
        logit_scale : torch.Tensor
            Scalar s.
        modality_loss_pairs : sequence of LossPairSpec
            Pairs of modalities and their weights.

        Returns
        -------
        torch.Tensor
            Scalar, the weighted sum over pairs.
        """
        targets = self._targets(gather(labels))
        names = {name for pair in modality_loss_pairs for name in pair.modalities}
        gathered = {
            name: gather(embeddings[Modalities.get_modality(name).embedding])
            for name in sorted(names)  # every process gathers in the same order
        }
        total = torch.zeros((), device=labels.device)
        for pair in modality_loss_pairs:
            first, second = (gathered[name] for name in pair.modalities)
            logits = logit_scale * first @ second.T
            both_ways = F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)
            total = total + pair.weight * both_ways / 2
        return total

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        same = (labels[:, None] == labels) & (labels != UNKNOWN)
        targets = same.float().fill_diagonal_(1)
        return targets / targets.sum(dim=1, keepdim=True) if self.normalize_targets else targets
