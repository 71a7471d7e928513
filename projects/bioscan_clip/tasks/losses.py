"""Contrastive losses beside mmlearn's, over the batches of all processes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import torch
import torch.distributed as dist
from mmlearn.datasets.core import Modalities
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from projects.bioscan_clip.arguments import check_at_least, check_choice
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN

LABELS: Final = "labels"
"""Where losses that need labels find them beside the ids of each modality."""

MATCHED: Final = "matched"
"""Where losses find what :func:`are_matched` says of these ids."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""Of the two modalities of a pair."""


class GatheredLoss(nn.Module):
    """A contrastive loss over the batches of all processes, the weighted sum over pairs.

    Rows of two modalities with the same ids belong together, or where there are labels, each row
    and that of the same number.
    """

    def forward(
        self,
        embeddings: Mapping[str, torch.Tensor],
        example_ids: Mapping[str, Any],
        logit_scale: torch.Tensor,
        modality_loss_pairs: Sequence[LossPairSpec],
    ) -> torch.Tensor:
        """Compute the loss.

        Parameters
        ----------
        embeddings : mapping of str to torch.Tensor
            Normalised embeddings by mmlearn's name (``rgb_embedding``), shape ``(B, D)``. A
            modality that is missing here must be missing in all processes; its pairs are left out.
        example_ids : mapping of str to torch.Tensor
            By modality (``rgb``), shape ``(B, 2)``: data set and specimen. In their place, under
            :data:`LABELS`, labels: int64, shape ``(B,)`` or ``(B, 4)``, -1 if unknown. One process
            need not compare ids, for which it waits for a GPU, if :data:`MATCHED` is true.
        logit_scale : torch.Tensor
            Scalar s.
        modality_loss_pairs : sequence of LossPairSpec
            Pairs of modalities and their weights.

        Returns
        -------
        torch.Tensor
            Scalar, the weighted sum over pairs of modalities.
        """
        names = {name for pair in modality_loss_pairs for name in pair.modalities}
        gathered = {
            name: gather(embeddings[key]).float()
            for name in sorted(names)  # every process gathers in the same order
            if (key := Modalities.get_modality(name).embedding) in embeddings
        }
        if LABELS in example_ids:
            ids = dict.fromkeys(gathered, gather(example_ids[LABELS]))
        else:
            ids = {name: gather(example_ids[name]) for name in gathered}
        one = _processes() == 1
        matched = LABELS in example_ids or (one and example_ids.get(MATCHED, False))
        total = torch.zeros((), device=logit_scale.device)
        for pair in modality_loss_pairs:
            first, second = pair.modalities
            if first in gathered and second in gathered:
                embedded, identities = (
                    (gathered[first], gathered[second]),
                    (ids[first], ids[second]),
                )
                if not matched:
                    rows, columns = matching_rows(*identities)
                    embedded = (embedded[0][rows], embedded[1][columns])
                total = total + pair.weight * self._pair_loss(
                    embedded, identities, logit_scale.float()
                )
        return total

    def _pair_loss(self, embeddings: Pair, ids: Pair, scale: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class LabelAwareContrastiveLoss(GatheredLoss):
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

    Raises
    ------
    ValueError
        If `positives` is neither ``"bin"`` nor ``"species"``.
    """

    def __init__(self, positives: Literal["bin", "species"] = "bin") -> None:
        super().__init__()
        check_choice("positives", positives, ("bin", "species"))
        self.positives = positives

    def labels_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the labels that decide about positives; int64, shape ``(B,)``."""
        labels: torch.Tensor = batch["bin"] if self.positives == "bin" else batch["labels"][:, 3]
        return labels

    def _pair_loss(self, embeddings: Pair, ids: Pair, scale: torch.Tensor) -> torch.Tensor:
        targets = _targets(ids[0])
        logits = scale * embeddings[0] @ embeddings[1].T
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def _targets(labels: torch.Tensor) -> torch.Tensor:
    same = (labels[:, None] == labels) & (labels != UNKNOWN)
    return same.float().fill_diagonal_(1)


class ChunkedContrastiveLoss(GatheredLoss):
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

    Raises
    ------
    ValueError
        If `chunk_size` is not positive.
    """

    def __init__(self, chunk_size: int = 1024) -> None:
        super().__init__()
        check_at_least("chunk_size", chunk_size, 1)
        self.chunk_size = chunk_size

    def _pair_loss(self, embeddings: Pair, ids: Pair, scale: torch.Tensor) -> torch.Tensor:
        """Compute this process's share."""
        first, second = embeddings
        one_way = self._share(first, partial(_cross_entropy, first, second, scale))
        return (one_way + self._share(second, partial(_cross_entropy, second, first, scale))) / 2

    def _share(
        self, rows: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Add `loss` over chunks of this process's rows, and divide by what is its share of all."""
        own = torch.arange(len(rows), device=rows.device).tensor_split(_processes())[_rank()]
        total = torch.zeros((), device=rows.device)
        for chunk in own.split(self.chunk_size):
            total = total + checkpoint(loss, chunk, use_reentrant=False)
        return _processes() * total / max(len(rows), 1)


def _cross_entropy(
    rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, chunk: torch.Tensor
) -> torch.Tensor:
    """Sum the cross-entropy over a chunk of rows, which belong to the columns of their numbers.

    The scale goes to the embeddings, which are fewer than the similarities.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return F.cross_entropy(scale * rows[chunk] @ columns.T, chunk, reduction="sum")


def are_matched(example_ids: Mapping[str, torch.Tensor]) -> bool:
    """Say whether all modalities have the same ids, each once, so that each row matches its own.

    Parameters
    ----------
    example_ids : mapping of str to torch.Tensor
        By modality, shape ``(B, 2)``, on the CPU.
    """
    if not example_ids:
        return False
    first, *others = example_ids.values()
    same = all(ids.equal(first) for ids in others)
    return same and len(first.unique(dim=0)) == len(first)


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
    if _processes() == 1:
        return local
    sizes = [torch.zeros((), dtype=torch.int64, device=local.device) for _ in range(_processes())]
    dist.all_gather(sizes, torch.full_like(sizes[0], len(local)))
    lengths = torch.stack(sizes).tolist()
    missing = max(lengths) - len(local)
    padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, missing))
    parts: torch.Tensor = _Gather.apply(padded.contiguous())
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def _processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    """Return which of them this one is."""
    return dist.get_rank() if _processes() > 1 else 0


class _Gather(torch.autograd.Function):
    """Stack tensors of one shape; as PyTorch's own, which is deprecated, does."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(local) for _ in range(_processes())]
        dist.all_gather(parts, local)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[_rank()]
