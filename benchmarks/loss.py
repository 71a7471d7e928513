"""Memory and time of the contrastive loss of large batches, forward and backward.

One pair of modalities, 768 numbers per embedding, single precision. mmlearn's loss holds the whole
matrix of similarities several times; it runs at the batches for which memory suffices.
"""

import functools
import os
from collections.abc import Callable

import torch
from memory import seconds_and_peak
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.nn import functional as F

from projects.bioscan_clip.tasks import ChunkedContrastiveLoss

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
BATCHES = (64,) if QUICK else (4096, 8192, 16384, 32768)
WIDTH = 768
PLAIN_BYTES = 28  # of mmlearn's loss per pair of specimens: similarities, their softmax, gradients
PAIR = [LossPairSpec(("rgb", "dna"))]


def prepare(loss: torch.nn.Module, specimens: int) -> Callable[[], None]:
    """Return a step forward and backward."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    embeddings = {
        name: F.normalize(
            torch.randn(specimens, WIDTH, device=DEVICE, generator=generator), dim=1
        ).requires_grad_()
        for name in ("rgb_embedding", "dna_embedding")
    }
    ids = torch.arange(specimens, device=DEVICE)
    ids = torch.stack([torch.zeros_like(ids), ids], dim=1)
    scale = torch.tensor(14.0, device=DEVICE, requires_grad=True)
    return lambda: loss(embeddings, {"rgb": ids, "dna": ids}, scale, PAIR).backward()


def free_memory() -> int:
    if ON_GPU:
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    device = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"Contrastive loss and its gradient, {device}")
    for heading in ("", "batch", "one matrix, GB", "peak, GB", "seconds"):
        table.add_column(heading, justify="right")
    for name, loss in (
        ("mmlearn's loss", ContrastiveLoss()),
        ("in chunks", ChunkedContrastiveLoss()),
    ):
        for specimens in BATCHES:
            matrix = f"{4 * specimens**2 / 1e9:.2f}"
            if name == "mmlearn's loss" and PLAIN_BYTES * specimens**2 > free_memory():
                table.add_row(name, str(specimens), matrix, "does not fit", "")
                continue
            seconds, peak = seconds_and_peak(functools.partial(prepare, loss, specimens))
            table.add_row(name, str(specimens), matrix, f"{peak:.2f}", f"{seconds:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
