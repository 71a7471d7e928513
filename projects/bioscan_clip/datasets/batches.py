"""Specimens of several splits as one data set that is read batch by batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset

_MODALITIES = ("rgb", "dna", "text")


class SpecimenBatches(Dataset[dict[str, Any]]):
    """Read batches of specimens from data sets laid end to end.

    Parameters
    ----------
    datasets : sequence of BIOSCANInsectDataset
        The data sets, as in mmlearn's ``CombinedDataset``.
    seed : int
        Seed of augmentation.

    Attributes
    ----------
    epoch : torch.Tensor
        int64, shape ``()``; the current epoch, on which augmentation depends. In shared memory, so
        that workers which live longer than one epoch see it change.
    """

    def __init__(self, datasets: Sequence[BIOSCANInsectDataset], seed: int) -> None:
        self.datasets = list(datasets)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._seed = seed
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets])

    def __len__(self) -> int:
        """Return the number of specimens in all."""
        return int(self._ends[-1])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Read one batch.

        Parameters
        ----------
        indices : sequence of int
            Positions in the data sets laid end to end, length ``B``.

        Returns
        -------
        dict
            As :meth:`BIOSCANInsectDataset.read_batch`, with mmlearn's ``dataset_index``, int64
            ``(B,)``, and ``example_ids``, for each modality int64 ``(B, 2)``.
        """
        positions = np.array(indices, dtype=np.int64)
        sources = np.searchsorted(self._ends, positions, side="right")
        grouped = np.argsort(sources, kind="stable")  # PyTorch's name for the order of the parts
        parts = [
            self._read_part(int(source), positions[grouped][sources[grouped] == source])
            for source in np.unique(sources)
        ]
        back = torch.from_numpy(np.argsort(grouped))
        batch: dict[str, Any] = (
            parts[0]
            if len(parts) == 1
            else {key: torch.cat([part[key] for part in parts])[back] for key in parts[0]}
        )
        ids = torch.stack([batch["dataset_index"], batch["example_index"]], dim=1)
        return batch | {"example_ids": dict.fromkeys(_MODALITIES, ids)}

    def _read_part(self, source: int, positions: np.ndarray) -> dict[str, torch.Tensor]:
        dataset = self.datasets[source]
        first = int(self._ends[source]) - len(dataset)
        seed = (self._seed, int(self.epoch), source)
        part = dataset.read_batch((positions - first).tolist(), seed)
        return part | {"dataset_index": torch.full((len(positions),), source)}
