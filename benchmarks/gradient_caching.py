"""Memory and time of a training step with and without gradient caching.

On a GPU with the encoders of BIOSCAN-1M in bf16, else with the sample's small encoders on the CPU.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning import pytorch as L
from memory import seconds_and_peak
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.utils._pytree import tree_map
from train_step import EXPERIMENT, ON_GPU, OURS, build, delivered_batch

from projects.bioscan_clip.datasets.transforms import finish_batch
from projects.bioscan_clip.tasks import ChunkedContrastiveLoss

BATCHES = (8,) if QUICK else (800, 3200, 12800) if ON_GPU else (200, 800)
CHUNK = 4 if QUICK else 400 if ON_GPU else 50
STEPS = 2  # the first one, which warms up, counts too


def prepare(specimens: int, chunk: int | None) -> Callable[[], None]:
    """Return a few steps of a new model with one batch."""
    torch.manual_seed(0)
    task = build(OURS)
    task.loss_fn = ChunkedContrastiveLoss()
    task.gradient_cache_chunk = chunk
    batch = delivered_batch(specimens)
    if ON_GPU:
        task, batch = task.cuda(), tree_map(lambda tensor: tensor.cuda(), batch)
    return functools.partial(train, task, batch)


def train(task: L.LightningModule, given: dict[str, Any]) -> None:
    autocast = torch.autocast("cuda", torch.bfloat16) if ON_GPU else contextlib.nullcontext()
    for _ in range(STEPS):
        task.zero_grad()
        with autocast:
            batch = given if task.gradient_cache_chunk else finish_batch(given)
            loss = task._compute_loss(batch, 0, task(batch))
        loss.backward()


def main() -> None:
    warnings.filterwarnings("ignore")
    if not ON_GPU:
        torch.set_num_threads(1)  # which other programs disturb least
    device = torch.cuda.get_device_name() if ON_GPU else "CPU, 1 thread"
    table = Table(title=f"Training step of {EXPERIMENT}, {device}")
    for heading in ("batch", "encoded at once", "peak, GB", "seconds"):
        table.add_column(heading, justify="right")
    for specimens in BATCHES:
        for chunk in (None, CHUNK):
            row = [str(specimens), str(chunk or specimens)]
            try:
                seconds, peak = seconds_and_peak(functools.partial(prepare, specimens, chunk))
            except torch.cuda.OutOfMemoryError:
                table.add_row(*row, "does not fit", "")
            else:
                table.add_row(*row, f"{peak:.2f}", f"{seconds / STEPS:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
