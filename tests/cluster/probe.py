"""A callback that writes down what each process of a training ends with."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Probe(Callback):
    """Writes down where a training is, and what each of its processes ends with.

    ``progress`` has a line for each step when it begins: how often SLURM has restarted the job, and
    the step's number.
    ``end-{rank}.json`` has hashes of weights, optimizer and schedule, and a metric. ``seconds`` has
    the time from the first step to the end.

    Parameters
    ----------
    folder : str
        Where to write.
    pause : float
        Seconds to wait before each step.
    """

    def __init__(self, folder: str, pause: float = 0) -> None:
        self.folder = Path(folder)
        self.pause = pause
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        time.sleep(self.pause)
        if trainer.is_global_zero:
            with (self.folder / "progress").open("a") as file:
                file.write(
                    f"{os.environ.get('SLURM_RESTART_COUNT', 0)} {trainer.global_step + 1}\n"
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end = {
            "weights": _hash(pl_module.state_dict()),
            "optimizer": _hash([optimizer.state_dict() for optimizer in trainer.optimizers]),
            "schedule": [one.scheduler.last_epoch for one in trainer.lr_scheduler_configs],
            "step": trainer.global_step,
            "val/loss": float(trainer.callback_metrics["val/loss"]),
        }
        if trainer.is_global_zero:
            (self.folder / "seconds").write_text(f"{time.monotonic() - self._start}")
        (self.folder / f"end-{trainer.global_rank}.json").write_text(json.dumps(end))


def _hash(state: Any) -> str:
    """Hash a nest of dictionaries and lists by the bits of its tensors."""
    if isinstance(state, dict):
        return _hash(
            [part for item in sorted(state.items(), key=lambda i: str(i[0])) for part in item]
        )
    if isinstance(state, list | tuple):
        return hashlib.sha256("".join(_hash(part) for part in state).encode()).hexdigest()
    value = state.numpy().tobytes() if isinstance(state, torch.Tensor) else repr(state).encode()
    return hashlib.sha256(value).hexdigest()
