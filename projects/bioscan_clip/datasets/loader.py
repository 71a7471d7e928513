"""The data loader: workers deliver whole batches, and an epoch can be resumed in its middle."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmlearn.datasets.core import CombinedDataset, DefaultDataCollator
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from projects.bioscan_clip.arguments import check_at_least
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


class WindowedSampler(DistributedSampler[Any]):
    """Shuffle within windows of neighbouring rows, one window after the other.

    A full shuffle reads single rows from all over a file. Here the rows of a window come from one
    stretch of it, which the operating system reads and keeps in memory while the window lasts. The
    windows come in random order, and begin elsewhere in each epoch.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        What is sampled.
    window : int, default=16384
        Rows per window. A batch is drawn from as many specimens, so it should be many batches long.
    num_replicas, rank : int, default=1, 0
        Number of processes, and which of them this is. They share the windows.
    seed : int, default=0
        Seed of the order; the same in all processes.
    drop_last : bool, default=False
        Whether to leave out the rows that do not divide evenly among processes, instead of
        repeating some.

    Raises
    ------
    ValueError
        If `window` is not positive.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        window: int = 16384,
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> None:
        check_at_least("window", window, 1)
        super().__init__(dataset, num_replicas, rank, shuffle, seed, drop_last)
        self.window = window
        self._rows = len(dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of this process, in this epoch's order."""
        order = self._windows() if self.shuffle else torch.arange(self._rows)
        repeats = -(-self.total_size // len(order))
        shared = order.repeat(repeats)[: self.total_size]
        return iter(shared[self.rank :: self.num_replicas].tolist())

    def _windows(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        begin = int(torch.randint(self.window, (), generator=generator))
        windows = (torch.arange(self._rows) + begin) // self.window
        places = torch.randperm(int(windows.max()) + 1, generator=generator)
        shuffled = torch.randperm(self._rows, generator=generator)
        return shuffled[torch.argsort(places[windows[shuffled]], stable=True)]


class ResumableSampler(Sampler[int]):
    """Another sampler, which can leave out the beginning of an epoch.

    Parameters
    ----------
    sampler : torch.utils.data.Sampler or iterable of int
        The order of specimens.

    Attributes
    ----------
    first : int
        Where in that order the next epoch begins; 0 unless an epoch is resumed.
    """

    def __init__(self, sampler: Sampler[int] | Sequence[int]) -> None:
        self.sampler = sampler
        self.first = 0

    def __iter__(self) -> Iterator[int]:
        """Yield positions."""
        return islice(self.sampler, self.first, None)

    def __len__(self) -> int:
        """Return the number of specimens in a whole epoch."""
        return len(self.sampler)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Tell the other sampler the epoch, if it shuffles by epochs."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class SpecimenLoader(DataLoader[dict[str, Any]]):
    """Load batches of specimens.

    These are the batches of PyTorch's loader with mmlearn's collator, but a worker reads and
    tokenizes a batch at once and leaves the last step of photos to
    :func:`~projects.bioscan_clip.datasets.transforms.finish_batch`. How a photo is augmented
    depends on `seed`, epoch and specimen alone, so neither the number of workers nor an
    interruption changes a batch.

    Parameters
    ----------
    dataset : mmlearn.datasets.core.CombinedDataset or SpecimenBatches
        Of :class:`BIOSCANInsectDataset` only.
    batch_size : int, default=1
        Specimens per batch.
    shuffle : bool, default=False
        Whether to shuffle where there is no `sampler`.
    sampler : torch.utils.data.Sampler, optional
        Order of the specimens. Its ``epoch``, if it has one, counts the epochs.
    drop_last : bool, default=False
        Whether to leave out a last batch that is not full.
    seed : int, optional
        Seed of augmentation. Defaults to PyTorch's, which mmlearn sets from ``seed``.
    collate_fn : callable, optional
        Only mmlearn's default, which has nothing left to do.
    **kwargs
        As in :class:`torch.utils.data.DataLoader`.

    Raises
    ------
    TypeError
        If the dataset holds anything else, or another `collate_fn` is given.
    """

    batch_size: int
    dataset: SpecimenBatches
    sampler: ResumableSampler

    def __init__(
        self,
        dataset: CombinedDataset | SpecimenBatches,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Sampler[int] | Sequence[int] | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        collate_fn: Any = None,
        **kwargs: Any,
    ) -> None:
        _check_collator(collate_fn)
        self.seed = torch.initial_seed() if seed is None else seed
        batches = dataset if isinstance(dataset, SpecimenBatches) else _combined(dataset, self.seed)
        if sampler is None:
            sampler = RandomSampler(batches) if shuffle else SequentialSampler(batches)
        super().__init__(
            batches,
            batch_size,
            sampler=ResumableSampler(sampler),
            drop_last=drop_last,
            collate_fn=_as_is,
            **kwargs,
        )
        self._epoch = -1
        self._taken = 0
        self._first = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the batches of an epoch; of a resumed one, those that are left."""
        self._epoch = getattr(self.sampler.sampler, "epoch", self._epoch + 1)
        self.dataset.epoch.fill_(self._epoch)
        self._taken, self._first = self._first, 0
        self.sampler.first = self._taken * self.batch_size
        for batch in super().__iter__():
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where in which epoch the loader is; Lightning keeps it in checkpoints."""
        return {"epoch": self._epoch, "batches": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next epoch begin after the batches that were already taken."""
        finished = state["batches"] >= len(self)
        self._first = 0 if finished else state["batches"]
        self._epoch = state["epoch"] if finished else state["epoch"] - 1


def _combined(dataset: CombinedDataset, seed: int) -> SpecimenBatches:
    others = {type(part).__name__ for part in dataset.datasets} - {BIOSCANInsectDataset.__name__}
    if others:
        raise TypeError(
            f"SpecimenLoader reads BIOSCANInsectDataset only, but got {', '.join(sorted(others))}. "
            "For other data sets, let the loader's _target_ be torch.utils.data.DataLoader."
        )
    return SpecimenBatches(dataset.datasets, seed)


def _check_collator(collate_fn: Any) -> None:
    if collate_fn not in (None, _as_is, DefaultDataCollator()):
        raise TypeError(
            f"SpecimenLoader has no use for the collate_fn {collate_fn!r}: its workers deliver "
            "whole batches. To process them, let the loader's _target_ be PyTorch's DataLoader."
        )


def _as_is(batch: Any) -> Any:
    return batch
