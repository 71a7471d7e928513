"""Training steps in 1, 2 and 4 processes: each with the same batch (weak) or its share (strong).

On as many GPUs with the encoders of BIOSCAN-1M in bf16, else on the CPU's cores with the sample's
encoders, one thread for each process. The share of time in communication is that in which a
process gathers embeddings and adds up gradients, or waits for the others to do so.
"""

import multiprocessing
import os
import socket
import statistics
import time
import warnings
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map
from train_step import BATCH, ON_GPU, OURS, build, delivered_batch

from projects.bioscan_clip.datasets.transforms import finish_batch

STEPS = 1 if QUICK else 5
PROCESSES = (2,) if QUICK else (1, 2, 4)
COLLECTIVES = ("gloo:", "nccl:")


class Step(torch.nn.Module):
    """The loss of a batch, as one module, which is what DDP takes."""

    def __init__(self, task: torch.nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        scale, pairs = self.task.log_logit_scale.exp(), self.task.modality_loss_pairs
        return self.task.loss_fn(self.task(batch), batch["example_ids"], scale, pairs)


def train(rank: int, processes: int, specimens: int, port: int, answers: Any) -> None:
    """Train as one of several processes, and put seconds a step and share of communication."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    backend, device = ("nccl", f"cuda:{rank}") if ON_GPU else ("gloo", "cpu")
    dist.init_process_group(backend, rank=rank, world_size=processes)
    torch.manual_seed(rank)
    options = ["modules/losses@task.loss=chunked-contrastive"]
    model = DistributedDataParallel(
        Step(build(OURS, options=options)).to(device),
        static_graph=True,
        gradient_as_bucket_view=True,
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    batch = delivered_batch(specimens)
    batch["example_ids"]["rgb"][:, 0] = rank
    batch = tree_map(lambda part: part.to(device), batch)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=ON_GPU):
            model(finish_batch(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if ON_GPU:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step()
    seconds = statistics.median(step() for _ in range(STEPS))
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_GPU
    with profile(activities=activities) as recorded:
        whole = step()
    talk = sum(
        event.device_time_total if ON_GPU else event.cpu_time_total
        for event in recorded.key_averages()
        if event.key.startswith(COLLECTIVES)
    )
    answers.put((seconds, talk / 1e6 / whole))
    dist.destroy_process_group()


def measure(processes: int, specimens: int) -> tuple[float, float]:
    """Return seconds of a step, and the share of communication, means over processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn" if ON_GPU else "fork")  # which need not import
    answers = context.Queue()
    workers = [
        context.Process(target=train, args=(rank, processes, specimens, port, answers))
        for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    seconds, shares = zip(*found, strict=True)
    return statistics.mean(seconds), statistics.mean(shares)


def main() -> None:
    most = torch.cuda.device_count() if ON_GPU else max(PROCESSES)
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {os.cpu_count()} cores"
    table = Table(title=f"Several processes, {device}")
    headings = ("", "processes", "specimens each", "specimens/s", "efficiency", "communication")
    for heading in headings:
        table.add_column(heading, justify="right")
    alone = None
    for scaling in ("weak", "strong"):
        for processes in PROCESSES:
            if processes > most or (scaling == "strong" and processes == PROCESSES[0]):
                continue
            each = BATCH if scaling == "weak" else BATCH // processes
            seconds, share = measure(processes, each)
            rate = processes * each / seconds
            alone = alone or rate
            efficiency = f"{rate / alone / processes:.0%}"
            cells = (str(processes), str(each), f"{rate:,.0f}", efficiency, f"{share:.0%}")
            table.add_row(scaling, *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
