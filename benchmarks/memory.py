"""Measure the memory of a piece of work."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch


def seconds_and_peak(prepare: Callable[[], Callable[[], Any]]) -> tuple[float, float]:
    """Return how long a piece of work takes, and by how many GB it raises memory at its peak.

    `prepare` returns the work. On a GPU, memory is that of tensors there. Otherwise it is the
    resident memory of a process of its own, forked from this one, which must not have computed
    anything in several threads.
    """
    if torch.cuda.is_available():
        work = prepare()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before, start = torch.cuda.memory_allocated(), time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - start, (torch.cuda.max_memory_allocated() - before) / 1e9
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_report, args=(prepare, sender))
    process.start()
    sender.close()
    try:
        seconds, peak = receiver.recv()
    except EOFError:
        raise MemoryError("The process that was measured ended without an answer.") from None
    process.join()
    return seconds, peak


def _report(prepare: Callable[[], Callable[[], Any]], sender: Connection) -> None:
    work = prepare()
    before, start = _peak(), time.perf_counter()
    work()
    sender.send((time.perf_counter() - start, _peak() - before))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
