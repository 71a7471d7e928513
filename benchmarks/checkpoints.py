"""Size of a checkpoint, and seconds to write, check and read it and to hash frozen weights.

Of the full-size encoders of BIOSCAN-1M with LoRA, with random weights, in full and adapters only.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as L
from rich.console import Console
from rich.table import Table
from timing import QUICK, shortest
from train_step import OURS, build

from projects.bioscan_clip.encoders.frozen import hash_weights, leave_out_frozen
from projects.bioscan_clip.tasks.checkpoints import AtomicCheckpointIO, find_damage

EXPERIMENT = "bioscan_sample" if QUICK else "bioscan_1m"
REPEATS = 1 if QUICK else 3


def content(task: L.LightningModule, trainable_only: bool) -> dict[str, Any]:
    """Return weights and the state of AdamW: two numbers for each that is trained."""
    trained = [weight for weight in task.parameters() if weight.requires_grad]
    state = {
        number: {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
        for number, weight in enumerate(trained)
    }
    checkpoint = {
        "pytorch-lightning_version": L.__version__,
        "state_dict": task.state_dict(),
        "optimizer_states": [{"state": state}],
    }
    if trainable_only:
        leave_out_frozen(checkpoint, task)
    return checkpoint


def main() -> None:
    warnings.filterwarnings("ignore")
    task, files = build(OURS, EXPERIMENT), AtomicCheckpointIO()
    table = Table(title=f"Checkpoints of {EXPERIMENT}")
    for heading in ("", "MB", "write, s", "check, s", "check and read, s"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "last.ckpt")
        for name, trainable_only in (("full", False), ("adapters only", True)):
            checkpoint = content(task, trainable_only)
            seconds = [
                shortest(lambda saved=checkpoint: files.save_checkpoint(saved, path), REPEATS),
                shortest(lambda: find_damage(path), REPEATS),
                shortest(lambda: files.load_checkpoint(path), REPEATS),
            ]
            size = path.stat().st_size / 1e6
            table.add_row(name, f"{size:,.1f}", *(f"{one:.2f}" for one in seconds))
    Console(width=100).print(table)
    hashing = shortest(lambda: hash_weights(task.state_dict()), REPEATS)
    print(f"Hashing all weights, as the first checkpoint of adapters only does: {hashing:.2f} s")


if __name__ == "__main__":
    main()
