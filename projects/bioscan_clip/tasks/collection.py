"""Collect the embeddings of an evaluation epoch, over batches and processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from mmlearn.constants import EXAMPLE_INDEX_KEY
from mmlearn.datasets.core import Modalities
from torchmetrics.utilities.distributed import gather_all_tensors

from projects.bioscan_clip.scoring.embeddings import MODALITIES, Embeddings

_DATASET_INDEX_KEY = "dataset_index"


@dataclass(frozen=True)
class Collected:
    """What an epoch saw of one dataset.

    Attributes
    ----------
    embeddings : Embeddings
        Of each specimen that was seen, once, in the dataset's order.
    rows : torch.Tensor
        int64, shape ``(N,)``, in main memory; their positions in the dataset.
    """

    embeddings: Embeddings
    rows: torch.Tensor


class EmbeddingCollection:
    """Embeddings, ids and label codes of one evaluation epoch, kept in main memory."""

    def __init__(self) -> None:
        self._batches: dict[str, list[torch.Tensor]] = {}

    def add(self, batch: Mapping[str, Any], outputs: Mapping[str, torch.Tensor]) -> None:
        """Add a batch.

        Parameters
        ----------
        batch : mapping
            With ``example_index``, ``dataset_index`` (B,) and ``labels`` (B, 4).
        outputs : mapping of str to torch.Tensor
            What mmlearn's forward pass returns: ``rgb_embedding`` (B, D) and the like.
        """
        columns = {
            "dataset": batch[_DATASET_INDEX_KEY],
            "example": batch[EXAMPLE_INDEX_KEY],
            "labels": batch["labels"],
        }
        for name in MODALITIES:
            key = Modalities.get_modality(name).embedding
            if key in outputs:
                columns[name] = outputs[key].float()
        for name, values in columns.items():
            self._batches.setdefault(name, []).append(values.detach().cpu())

    def by_dataset(self, device: torch.device) -> dict[int, Collected]:
        """Return each dataset's specimens once, in the dataset's order.

        In distributed runs the parts of all processes are put together, and specimens that a
        distributed sampler repeated are dropped, so that every process returns what a single one
        would.

        Parameters
        ----------
        device : torch.device
            Where to return them, and where processes can exchange tensors.

        Returns
        -------
        dict of int to Collected
            By position of the dataset among those evaluated.
        """
        columns = {name: torch.cat(parts) for name, parts in sorted(self._batches.items())}
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            columns = {name: _gather(values, device) for name, values in columns.items()}
        if not columns:
            return {}
        datasets, examples = columns.pop("dataset"), columns.pop("example")
        result = {}
        for dataset in datasets.unique().tolist():
            rows = (datasets == dataset).nonzero().squeeze(1)
            rows = rows[_first_of_each(examples[rows])]
            embeddings = {name: values[rows].to(device) for name, values in columns.items()}
            result[dataset] = Collected(Embeddings(**embeddings), examples[rows])
        return result


def _gather(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat(gather_all_tensors(values.to(device))).cpu()


def _first_of_each(ids: torch.Tensor) -> torch.Tensor:
    """Return the positions of the first occurrence of each id, by ascending id."""
    ordered, positions = ids.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return positions[is_first]
