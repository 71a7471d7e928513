"""Trainings that resume by themselves after a time limit, a preemption or a kill."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader

from projects.bioscan_clip.tasks.checkpoints import newest_checkpoint
from projects.bioscan_clip.tasks.progress import silence_others

logger = logging.getLogger(__name__)

# What a process is asked for, by signals. The greater one wins.
_NOTHING: Final = 0
_SAVE: Final = 1
_SAVE_AND_REQUEUE: Final = 2


class ResumingTrainer(Trainer):
    """Lightning's trainer, but a training resumes by itself in its own output folder.

    A job that SLURM has put back in its queue runs the same command in the same folder: if there
    is a checkpoint in it, training resumes from the newest intact one. Otherwise, and in all else,
    it is as in Lightning.
    """

    def __init__(self, **options: Any) -> None:
        silence_others()
        super().__init__(**options)

    def print(self, *values: Any, **options: Any) -> None:
        """Log what mmlearn prints, the whole configuration, at debug level; Hydra saves it."""
        logger.debug(*values)

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
        super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)

    def _run(
        self, model: LightningModule, ckpt_path: str | Path | None = None, **options: Any
    ) -> Any:
        """Replace a training's `ckpt_path` by the newest of its folder, as the first process says.

        Processes may see a shared file system at different times. They can talk to one another
        from here on only.
        """
        callback = self.checkpoint_callback
        if self.training and isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            self.strategy.setup_environment()
            newest = newest_checkpoint(Path(callback.dirpath)) if self.is_global_zero else None
            newest = self.strategy.broadcast(newest)
            if newest is not None:
                rank_zero_info(f"Training resumes from {newest}, found in its output folder.")
                ckpt_path = newest
        return super()._run(model, ckpt_path, **options)


class SaveWhenAsked(Callback):
    """Save a checkpoint, between two steps, when the job is told that it will be stopped.

    - SIGTERM comes before SLURM preempts, requeues or cancels a job: it is up to SLURM what becomes
      of it, so training continues until then. Outside of SLURM, training ends with status 143.
    - SIGUSR2 comes from submitit before a job's time limit: the job is saved and goes back to the
      queue, if ``hydra.launcher.max_num_timeout`` allows; SIGUSR1 does the same.

    Processes agree on the step, and only then does the first one have submitit requeue the job.
    During validation there is nothing to save: the job goes back to the queue at once.
    """

    def __init__(self) -> None:
        self._asked = _NOTHING
        self._agreed: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
        self._saved = _NOTHING
        self._requeue: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, so that neither Lightning nor submitit acts in the middle of a step.

        Lightning, which would requeue the job too, restores the handlers when training ends.
        """
        # Lightning asks all processes for SIGTERM before every step, and waits for the GPU.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _do_nothing  # type: ignore[method-assign]
        signal.signal(signal.SIGTERM, self._note)
        if _is_submitit():
            self._requeue = signal.getsignal(_submitit_signal())
            signal.signal(signal.SIGUSR1, self._note)
            signal.signal(signal.SIGUSR2, self._note)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End or requeue the job, once the saved step is logged."""
        if self._saved == _SAVE_AND_REQUEUE:
            self._go_back_to_the_queue()
        if self._saved == _SAVE and not SLURMEnvironment.detect():
            raise SystemExit(128 + signal.SIGTERM)
        self._saved = _NOTHING

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if any process was asked to."""
        asked = self._agree(trainer)
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if asked == _NOTHING or not accumulated or trainer.is_last_batch:
            return
        self._save(trainer)
        self._saved, self._agreed = asked, None
        if self._asked <= asked:  # else a second signal came meanwhile
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
            # Other processes that Lightning started may wait for this one without end. It kills
            # this one too, soon after it sees that they are gone: say before why.
            logger.error("Training fails, and all of its processes end.", exc_info=exception)
            trainer.strategy.launcher.kill(signal.SIGKILL)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        logger.warning("Got %s; saving after this step.", signal.Signals(signum).name)
        asked = _SAVE if signum == signal.SIGTERM else _SAVE_AND_REQUEUE
        self._asked = max(self._asked, asked)

    def _agree(self, trainer: Trainer) -> int:
        """Return what any process was asked for; of several, by the end of the step before."""
        if trainer.world_size == 1:
            return self._asked
        # The host must not wait for the GPU, so the answer is read when the next step is under way.
        before, device = self._agreed, trainer.strategy.root_device
        asked = torch.full((), self._asked, device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        done = torch.cuda.Event() if device.type == "cuda" else None
        self._agreed = (asked.to("cpu", non_blocking=True), done)
        if done is not None:
            done.record()
        if before is None:
            return _NOTHING
        if before[1] is not None:
            before[1].synchronize()
        return int(before[0])

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
    training, starter = multiprocessing.parent_process(), os.getppid()  # may be a fork server
    while os.getppid() == starter:
        received = signal.sigtimedwait({signal.SIGTERM}, 1)
        if received is not None and training is not None and received.si_pid == training.pid:
            break
    os._exit(0)  # at once, whatever the worker is doing


def _do_nothing() -> None:
    """Take the place of a method of Lightning."""


def _is_submitit() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _submitit_signal() -> signal.Signals:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
