"""A training that fails, to be run as a program: ``failing.py FOLDER FAILURE [OPTION ...]``."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, Dataset

from projects.bioscan_clip.tasks import resuming
from projects.bioscan_clip.tasks.resuming import ResumingTrainer, SaveWhenAsked

FOLDER, FAILURE, *OPTIONS = sys.argv[1:]
STEP = 3
RANK = int(os.environ.get("LOCAL_RANK", 0))


class Inputs(Dataset):
    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        if f"{self.stage} worker" == FAILURE and index > 5:
            (Path(FOLDER) / "step.0").touch()
            raise ValueError("a photo that does not decode")
        return torch.randn(32)


class Failing(BoringModel):
    def on_train_start(self):
        (Path(FOLDER) / f"began.{RANK}.{self.global_step}").touch()
        if FAILURE == "none":
            self.trainer.should_stop = True

    def training_step(self, batch, batch_idx):
        if batch_idx == STEP:
            (Path(FOLDER) / f"step.{RANK}").touch()
            if FAILURE in ("step", f"step of rank {RANK}"):
                raise RuntimeError("CUDA out of memory")
            if FAILURE == "signal":
                time.sleep(1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        (Path(FOLDER) / f"step.{RANK}").touch()
        if FAILURE == "validation":
            raise ValueError("no keys")
        if FAILURE == "signal in validation":
            time.sleep(2)


class SlowEnd(Callback):
    """As a logger that still sends what it has when training failed."""

    def on_exception(self, trainer, pl_module, exception):
        time.sleep(7)


def loader(stage: str) -> DataLoader:
    return DataLoader(
        Inputs(stage), 1, num_workers=2, persistent_workers="persistent" in OPTIONS, shuffle=False
    )


if __name__ == "__main__":
    if RANK:  # a file system may not show it yet
        resuming.newest_checkpoint = lambda folder: None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's children may ignore it
    torch.set_num_threads(1)
    ranks = 2 if "ranks" in OPTIONS else 1
    trainer = ResumingTrainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=20,
        num_sanity_val_steps=20 if "validation" in FAILURE else 0,
        callbacks=[
            SaveWhenAsked(),
            ModelCheckpoint(FOLDER, filename="last"),
            *([SlowEnd()] if "slow end" in OPTIONS else []),
        ],
    )
    trainer.fit(Failing(), loader("training"), loader("validation"))
