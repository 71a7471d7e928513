"""Requests that arrive meanwhile go through the model together.

An encoder needs hardly more time for eight specimens than for one, so what waits while a batch is
computed makes the next one.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class FullError(Exception):
    """There is no room; `seconds` says when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"No room for {seconds} seconds.")
        self.seconds = seconds


class Batcher(Generic[Item, Result]):
    """A bounded queue in front of work that is done for many at once, in one thread.

    Parameters
    ----------
    work : callable
        Takes items and returns a result for each, in order.
    at_once : int
        Items of a batch, at most.
    room : int
        Items that are prepared, wait or are worked on, at most.
    patience : float
        Seconds that these may take, by how long the last ones took.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        at_once: int,
        room: int,
        patience: float,
    ) -> None:
        self.work = work
        self.at_once = at_once
        self.limit = room
        self.patience = patience
        self.taken = 0
        self._seconds_each = 0.0
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Take room for some items, from before they are prepared until they have their results.

        Raises
        ------
        FullError
            If there is too little.
        """
        seconds = self.taken * self._seconds_each
        if self.taken + count > self.limit or seconds > self.patience:
            raise FullError(min(60, max(1, ceil(seconds))))
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Wait for the results of some items."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        for pair in zip(items, futures, strict=True):
            self._queue.put_nowait(pair)
        return await asyncio.gather(*futures)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.at_once and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Whoever asked may have given up meanwhile.
            batch = [pair for pair in batch if not pair[1].done()]
            if not batch:
                continue
            start = time.perf_counter()
            try:
                results = await asyncio.to_thread(self.work, [item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
            last = (time.perf_counter() - start) / len(batch)
            self._seconds_each = (self._seconds_each + last) / 2
