"""The data loader: workers deliver whole batches, and an epoch can be resumed in its middle."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from mmlearn.datasets.core import CombinedDataset, DefaultDataCollator
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler

from projects.bioscan_clip.datasets.batches import SpecimenBatches
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset


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
