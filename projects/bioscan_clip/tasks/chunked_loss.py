"""The contrastive loss of large batches, without their matrix of similarities."""

from collections.abc import Mapping, Sequence

import torch
from mmlearn.datasets.core import Modalities
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from projects.bioscan_clip.tasks.gathering import gather, processes, rank


class ChunkedContrastiveLoss(nn.Module):
    r"""mmlearn's contrastive loss over all processes, a few rows of the similarities at a time.

    For the B pairs of specimens that have both modalities and their similarities
    :math:`S_{ij} = s \, a_i \cdot b_j`, each pair of modalities contributes

    .. math:: -\tfrac{1}{2B} \sum_i \left[
              \log \mathrm{softmax}_j(S_{ij})_i + \log \mathrm{softmax}_j(S_{ji})_i \right]

    as in CLIP (Radford et al. 2021, figure 3). A row of either direction needs no other row, so
    rows are computed in chunks, and once more when gradients are. Memory is O(`chunk_size` B + B D)
    rather than O(B²). Similarities are single precision, also under autocast.

    Of several processes, each computes its share of the rows. The mean of their losses, which is
    what Lightning logs with ``sync_dist=True``, is the whole loss, and the mean of their
    gradients, which DDP takes, is its gradient, also where batches differ in size.

    Parameters
    ----------
    chunk_size : int, default=1024
        Rows at a time. Each takes 12 bytes per pair: 400 MB for 1,024 rows and 32,768 pairs.
    l2_normalize : bool, default=False
        Whether to normalise embeddings; the task does so already.

    Raises
    ------
    ValueError
        If `chunk_size` is not positive.
    """

    def __init__(self, chunk_size: int = 1024, l2_normalize: bool = False) -> None:
        super().__init__()
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1 row, but is {chunk_size}.")
        self.chunk_size = chunk_size
        self.l2_normalize = l2_normalize

    def forward(
        self,
        embeddings: Mapping[str, torch.Tensor],
        example_ids: Mapping[str, torch.Tensor],
        logit_scale: torch.Tensor,
        modality_loss_pairs: Sequence[LossPairSpec],
    ) -> torch.Tensor:
        """Compute this process's share of the loss.

        Parameters
        ----------
        embeddings : mapping of str to torch.Tensor
            By mmlearn's name (``rgb_embedding``), shape ``(B, D)``. A modality that is missing
            here must be missing in all processes; its pairs are left out.
        example_ids : mapping of str to torch.Tensor
            By modality (``rgb``), shape ``(B, 2)``: data set and specimen. Rows of two modalities
            with the same ids are positives.
        logit_scale : torch.Tensor
            Scalar s.
        modality_loss_pairs : sequence of LossPairSpec
            Pairs of modalities and their weights.

        Returns
        -------
        torch.Tensor
            float32 scalar, the weighted sum over pairs of modalities.
        """
        names = {name for pair in modality_loss_pairs for name in pair.modalities}
        all_embeddings, all_ids = {}, {}
        for name in sorted(names):  # every process gathers in the same order
            local = embeddings.get(Modalities.get_modality(name).embedding)
            if local is not None:
                local = F.normalize(local, dim=-1) if self.l2_normalize else local
                all_embeddings[name] = gather(local).float()
                all_ids[name] = gather(example_ids[name])

        total = torch.zeros((), device=logit_scale.device)
        for pair in modality_loss_pairs:
            if all(name in all_embeddings for name in pair.modalities):
                first, second = pair.modalities
                rows, columns = matching_rows(all_ids[first], all_ids[second])
                paired = all_embeddings[first][rows], all_embeddings[second][columns]
                total = total + pair.weight * self._share(*paired, logit_scale.float())
        return total

    def _share(
        self, first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """Compute the terms of this process's rows, as many times as there are processes."""
        positives = torch.arange(len(first), device=first.device).tensor_split(processes())[rank()]
        total = torch.zeros((), device=first.device)
        for rows, columns in ((first, second), (second, first)):
            own = rows.tensor_split(processes())[rank()].split(self.chunk_size)
            for chunk in zip(own, positives.split(self.chunk_size), strict=True):
                total = total + checkpoint(
                    _cross_entropy, *chunk, columns, scale, use_reentrant=False
                )
        return processes() * total / (2 * max(len(first), 1))


def _cross_entropy(
    rows: torch.Tensor, positives: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Sum the cross-entropy over a few rows; `positives` are the columns that belong to them.

    The scale goes to the embeddings, which are fewer than the similarities.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return F.cross_entropy(scale * rows @ columns.T, positives, reduction="sum")


def matching_rows(
    first_ids: torch.Tensor, second_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find all pairs of rows with the same ids, without comparing each row with each.

    Parameters
    ----------
    first_ids, second_ids : torch.Tensor
        Shapes ``(N, 2)`` and ``(M, 2)``.

    Returns
    -------
    tuple of torch.Tensor
        int64, shape ``(P,)`` each: rows of the first and of the second, ascending.
    """
    codes = torch.cat([first_ids, second_ids]).unique(dim=0, return_inverse=True)[1]
    first, second = codes.tensor_split([len(first_ids)])
    ordered, order = second.sort(stable=True)
    begin = torch.searchsorted(ordered, first)
    counts = torch.searchsorted(ordered, first, right=True) - begin
    rows = torch.arange(len(first), device=first.device).repeat_interleave(counts)
    nth = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    return rows, order[begin[rows] + nth]
