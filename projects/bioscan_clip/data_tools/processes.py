"""Processes that share the work of a command."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # says less than cpu_count() inside a SLURM job
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def processes_for(work: str, number: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Start processes, and end them however the context ends.

    Parameters
    ----------
    work : str
        What they do, in the past tense, for the message.
    number : int, optional
        How many. Defaults to the number of available cores.

    Yields
    ------
    concurrent.futures.ProcessPoolExecutor
        Takes functions of modules that are light to import.

    Raises
    ------
    OSError
        If one of them is killed.
    """
    # Spawned, not forked: PyTorch may run threads here.
    context = get_context("spawn")
    pool = ProcessPoolExecutor(number or available_cores(), context, initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise OSError(
            f"A process that {work} was killed, perhaps because memory ran out. Run the same "
            "command again, with fewer processes if there is such an option."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this process when the command that started it was killed; else it would wait for ever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
