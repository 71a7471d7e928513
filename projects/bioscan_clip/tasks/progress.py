"""How a training goes, in plain lines, and without the noise of others."""

import logging
import sys
import time
import warnings
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from projects.bioscan_clip.files import duration

_KNOWN_WARNINGS: Final = (
    r".*isinstance\(treespec, LeafSpec\)",  # between Lightning and PyTorch
    r".*distributed.nn.functional.all_gather is deprecated",  # in mmlearn's loss
    r".*The `srun` command is available",  # a job on one node needs none
    r".*Checkpoint directory .* exists and is not empty",  # where a training resumes
)
_LONG: Final = 10.0
"""Seconds of a first step that has compiled something."""

_ADVERTISED: Final = ("litlogger", "litmodels")


def silence_others() -> None:
    """Leave out what Lightning says in every run and nobody can act upon."""
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(f"{name}.utilities.rank_zero").addFilter(_is_no_advertisement)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # which processors it would like better


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not any(name in record.getMessage() for name in _ADVERTISED)


class ProgressLines(Callback):
    """Prints a line every ``log_every_n_steps`` and every epoch, where there is no terminal.

    There it takes the place of Lightning's progress bar, which makes one long line of a file; and
    as that bar, it is switched off by ``enable_progress_bar=False``.
    """

    def __init__(self) -> None:
        self._on = False
        self._first: tuple[float, float] | None = (
            None  # when this training began, and at which batch
        )
        self._is_first = True
        self._last = 0.0
        self._specimens = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See whether there is a terminal."""
        bar = trainer.progress_bar_callback
        self._on = bar is not None and not sys.stdout.isatty() and trainer.log_every_n_steps > 0
        if bar is not None and self._on:
            bar.disable()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        if self._first is None:
            self._last = time.monotonic()
            self._first = self._last, _batches(trainer, batch_idx)
            compiles = getattr(pl_module, "compile_encoders", False)
            if compiles and self._on and trainer.is_global_zero:
                print("The first step compiles the encoders, which takes minutes.", flush=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count specimens, and print a line now and then."""
        if self._is_first and self._on and trainer.is_global_zero:
            seconds = time.monotonic() - self._last
            if seconds >= _LONG:
                print(f"first step: {seconds:.0f} s", flush=True)
        self._is_first = False
        self._specimens += _specimens(batch) * trainer.world_size
        if not self._on or (batch_idx + 1) % trainer.log_every_n_steps:
            return
        now = time.monotonic()
        speed, self._last, self._specimens = self._specimens / (now - self._last), now, 0
        self._print(
            trainer,
            f", step {batch_idx + 1}/{trainer.num_training_batches}: "
            f"loss {float(outputs['loss']):.4f}, {speed:,.0f} specimens/s",
            _batches(trainer, batch_idx + 1),
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the losses of the epoch."""
        metrics = trainer.callback_metrics  # of all processes, so that all must ask for them
        losses = [
            f"{name} {metrics[name]:.4f}" for name in ("train/loss", "val/loss") if name in metrics
        ]
        if self._on:
            done = _batches(trainer, trainer.num_training_batches)
            self._print(trainer, f": {', '.join(losses)}", done)
        self._last, self._specimens = time.monotonic(), 0

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line now and then."""
        if self._on and trainer.is_global_zero and (batch_idx + 1) % trainer.log_every_n_steps == 0:
            total = trainer.num_test_batches[dataloader_idx]
            print(f"evaluation, batch {batch_idx + 1}/{total}", flush=True)

    def _print(self, trainer: Trainer, text: str, done: float) -> None:
        """Print a line with the epoch and the time that is left."""
        if not trainer.is_global_zero:
            return
        epochs = trainer.max_epochs or -1
        if epochs > 0 and self._first is not None:
            start, first = self._first
            left = epochs * trainer.num_training_batches - done
            seconds = (time.monotonic() - start) * left / max(done - first, 1)
            text += f", {duration(seconds)} left"
        of = f"/{epochs}" if epochs > 0 else ""
        print(f"epoch {trainer.current_epoch + 1}{of}{text}", flush=True)


def _batches(trainer: Trainer, of_this_epoch: float) -> float:
    """Return how many batches of the training are done."""
    batches: float = trainer.current_epoch * trainer.num_training_batches + of_this_epoch
    return batches


def _specimens(batch: Any) -> int:
    tensors = batch.values() if isinstance(batch, dict) else [batch]
    return next((len(one) for one in tensors if isinstance(one, torch.Tensor)), 0)
