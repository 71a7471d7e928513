"""Trainings that go on by themselves after a time limit, a preemption or a kill."""

import logging
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from projects.bioscan_clip.tasks.checkpoints import newest_checkpoint

logger = logging.getLogger(__name__)

# What a process is asked for, by signals. The greater one wins.
_NOTHING: Final = 0
_SAVE: Final = 1
_SAVE_AND_REQUEUE: Final = 2


class ResumingTrainer(Trainer):
    """Lightning's trainer, but a training goes on where its own output folder ends.

    A job that SLURM has put back in its queue runs the same command in the same folder: if there
    is a checkpoint in it, training resumes from the newest intact one. Otherwise, and in all else,
    it is as in Lightning.
    """

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train; `ckpt_path` is where to begin if the output folder has no checkpoint yet."""
        _leave_signals_to_this_process([train_dataloaders, val_dataloaders])
        callback = self.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            newest = newest_checkpoint(Path(callback.dirpath))
            if newest is not None:
                rank_zero_info(f"Training goes on from {newest}, found in its output folder.")
                ckpt_path = newest
        super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)


class SaveWhenAsked(Callback):
    """Save a checkpoint, between two steps, when the job is told that it will be stopped.

    - SIGTERM comes before SLURM preempts, requeues or cancels a job: it is up to SLURM what becomes
      of it, so training goes on until then. Outside of SLURM, training ends with status 143.
    - SIGUSR2 comes from submitit before a job's time limit: the job is saved and goes back to the
      queue, if ``hydra.launcher.max_num_timeout`` allows; SIGUSR1 does the same.

    Processes agree on the step, and only then does the first one have submitit requeue the job.
    During validation there is nothing to save: the job goes back to the queue at once.
    """

    def __init__(self) -> None:
        self._asked = _NOTHING
        self._requeue: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, so that neither Lightning nor submitit acts in the middle of a step.

        Lightning, which would requeue the job too, restores the handlers when training ends.
        """
        signal.signal(signal.SIGTERM, self._note)
        if _is_submitit():
            self._requeue = signal.getsignal(_submitit_signal())
            signal.signal(signal.SIGUSR1, self._note)
            signal.signal(signal.SIGUSR2, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what was asked for, if any process was."""
        asked = self._asked
        if trainer.world_size > 1:
            mine = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(mine, reduce_op="max"))
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if asked == _NOTHING or not accumulated or trainer.is_last_batch:
            return
        self._save(trainer)
        if asked == _SAVE_AND_REQUEUE:
            _log_step(trainer)
            self._go_back_to_the_queue()
        if not SLURMEnvironment.detect():
            _log_step(trainer)
            raise SystemExit(128 + signal.SIGTERM)
        self._asked = _NOTHING

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        """Do not begin a long validation that the job would not live to end."""
        if self._asked == _SAVE_AND_REQUEUE:
            self._go_back_to_the_queue()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let an error end the whole job, and say by the status that a signal did."""
        if isinstance(exception, SystemExit):
            if exception.code is None:  # Lightning's, for SIGTERM before the first step
                exception.code = 128 + signal.SIGTERM
        elif trainer.strategy.launcher is not None:
            # Other processes that Lightning started may wait for this one without end.
            trainer.strategy.launcher.kill(signal.SIGKILL)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        logger.warning("Got %s; saving after this step.", signal.Signals(signum).name)
        asked = _SAVE if signum == signal.SIGTERM else _SAVE_AND_REQUEUE
        self._asked = max(self._asked, asked)

    def _save(self, trainer: Trainer) -> None:
        callback = trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            trainer.save_checkpoint(
                Path(callback.dirpath) / f"{callback.CHECKPOINT_NAME_LAST}.ckpt"
            )

    def _go_back_to_the_queue(self) -> None:
        """Call submitit's handler, which requeues the job and ends the first process."""
        self._requeue(_submitit_signal(), None)
        raise SystemExit(0)  # the others; SLURM takes a failure of theirs for the job's


def _log_step(trainer: Trainer) -> None:
    """Log the step's metrics, as Lightning would do if training went on."""
    trainer._logger_connector.update_train_step_metrics()


def _leave_signals_to_this_process(loaders: Iterable[Any]) -> None:
    """Let workers survive the signals that SLURM sends to every process of a job."""
    for loader in loaders:
        if isinstance(loader, DataLoader) and loader.worker_init_fn is None:
            loader.worker_init_fn = _begin_worker


def _begin_worker(worker: int) -> None:
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # not on macOS, where there is no SLURM either
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    pl_worker_init_function(worker)  # what Lightning would have set


def _end_with_parent() -> None:
    """End this worker when its training does, but by nobody else's SIGTERM.

    A training that ends by an error sends its workers SIGTERM and waits for them. SLURM sends the
    same signal to every process, and then the training needs its workers to finish a step and save.
    What tells the two apart is the sender.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)  # at once, whatever the worker is doing


def _is_submitit() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _submitit_signal() -> signal.Signals:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
