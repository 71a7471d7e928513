"""Run a function in several processes that can talk to one another."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_TIMEOUT = 120


def run(function: Callable[..., Any], processes: int, *arguments: Any) -> list[Any]:
    """Return ``function(rank, *arguments)`` of each process, over gloo on the loopback."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(
            _process,
            args=(function, processes, folder, arguments),
            nprocs=processes,
            start_method="fork",  # the slow imports are done already
            join=False,
        )
        deadline = time.monotonic() + _TIMEOUT
        while not context.join(timeout=1):  # false as long as one is running; raises their errors
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"The processes are not done after {_TIMEOUT} s.")
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)]


def _process(
    rank: int, function: Callable[..., Any], processes: int, folder: str, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(Path(folder) / "store"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    torch.save(function(rank, *arguments), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
