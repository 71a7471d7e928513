"""What waits is worked on together, in bounded memory, and nobody waits for ever."""

import asyncio
import threading
import time

import pytest

from projects.bioscan_clip.inference.service.batching import Batcher, FullError


def served(work, scenario, at_once=8, room=100, patience=60.0):
    async def run():
        batcher = Batcher(work, at_once, room, patience)
        worker = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            worker.cancel()

    return asyncio.run(run())


def test_requests_share_batches_and_get_their_own_results():
    sizes, gate = [], threading.Event()

    def work(items):
        sizes.append(len(items))
        gate.wait(5)
        return [10 * item for item in items]

    async def scenario(batcher):
        first = asyncio.create_task(batcher.submit([0]))
        while not sizes:
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.submit([n, n + 1])) for n in range(1, 11, 2)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *others)

    answers = served(work, scenario)
    assert answers == [[0], [10, 20], [30, 40], [50, 60], [70, 80], [90, 100]]
    assert sizes == [1, 8, 2]


def test_there_is_no_room_for_more_than_was_promised():
    async def scenario(batcher):
        with batcher.room(60), pytest.raises(FullError) as refused, batcher.room(41):
            pass
        with batcher.room(100):
            assert batcher.taken == 100
        assert batcher.taken == 0
        return refused.value.seconds

    assert served(list, scenario) >= 1


def test_who_would_wait_too_long_is_told_at_once():
    def work(items):
        time.sleep(0.02 * len(items))
        return items

    async def scenario(batcher):
        await batcher.submit([0, 1])
        with batcher.room(3):
            pass
        with batcher.room(20), pytest.raises(FullError), batcher.room(1):
            pass

    served(work, scenario, patience=0.1)


def test_a_failure_is_told_to_those_it_concerns_only():
    def work(items):
        if "bad" in items:
            raise RuntimeError("no memory")
        return items

    async def scenario(batcher):
        with pytest.raises(RuntimeError, match="no memory"):
            await batcher.submit(["bad"])
        return await batcher.submit(["good"])

    assert served(work, scenario) == ["good"]


def test_what_nobody_waits_for_is_not_computed():
    done, gate = [], threading.Event()

    def work(items):
        gate.wait(5)
        done.extend(items)
        return items

    async def scenario(batcher):
        first = asyncio.create_task(batcher.submit(["first"]))
        await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.submit(["given up"])
        gate.set()
        await first
        return await batcher.submit(["last"])

    served(work, scenario)
    assert done == ["first", "last"]
