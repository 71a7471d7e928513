"""A sampler for files that are read from a slow or shared disk."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler


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
        if window < 1:
            raise ValueError(f"`window` must be at least 1 row, but is {window}.")
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
