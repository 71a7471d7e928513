"""Operations and memory that a specimen costs in a training step of BIOSCAN-1M.

Both follow from the encoders' shapes, so that no GPU is needed to know them.
"""

import torch
from lightning import pytorch as L
from mmlearn.datasets.core import Modalities
from rich.console import Console
from rich.table import Table
from timing import QUICK
from torch.autograd.graph import saved_tensors_hooks
from train_step import OURS, build, delivered_batch, operations

from projects.bioscan_clip.datasets.transforms import finish_batch

SPECIMENS = 1 if QUICK else 4


def kept_memory(task: L.LightningModule, name: str) -> float:
    """Return what each further specimen keeps until the backward pass, in bf16, in MB."""
    few, many = (_kept_bytes(task, name, specimens) for specimens in (SPECIMENS, 2 * SPECIMENS))
    return (many - few) / SPECIMENS / 1e6


def _kept_bytes(task: L.LightningModule, name: str, specimens: int) -> int:
    batch = finish_batch(delivered_batch(specimens, photo_size=224))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        task.encode(batch, Modalities.get_modality(name))
    return sum(kept.values())


def main() -> None:
    torch.manual_seed(0)
    task = build(OURS, "bioscan_1m")
    table = Table(title="One specimen in a training step of bioscan_1m, LoRA on query and value")
    for heading in ("", "GFLOP", "MB kept for the backward pass"):
        table.add_column(heading, justify="right")
    costs = []
    for name in ("rgb", "dna", "text"):
        costs.append((operations(task, name, SPECIMENS, 224) / 1e9, kept_memory(task, name)))
        table.add_row(name, *(f"{cost:.1f}" for cost in costs[-1]))
    table.add_row("sum", *(f"{sum(cost):.1f}" for cost in zip(*costs, strict=True)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
