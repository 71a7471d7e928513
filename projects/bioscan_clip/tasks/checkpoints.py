"""Checkpoints that survive: written whole or not at all, and checked before one is resumed."""

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

logger = logging.getLogger(__name__)

_SUFFIX = ".ckpt"
_UNFINISHED = "unfinished.part"  # one name, so that what a kill leaves is written over


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way of saving checkpoints, but a file is replaced only by a finished one.

    Lightning assembles a checkpoint in memory and in the folder of temporary files, from where it
    is copied if that is another file system, as it is on most clusters: a job killed meanwhile
    leaves a torn file under the final name. Here it is written beside the final name, without a
    copy in memory, brought to the disk and renamed. Object stores, which do this by themselves, are
    left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; until that is done, `path` stays what it was.

        Parameters
        ----------
        checkpoint : dict
            What Lightning collected.
        path : str or pathlib.Path
            Where to; its folder is made if missing.
        storage_options : None
            Not supported, as in Lightning's class.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(_UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            unfinished.unlink(missing_ok=True)
            # PyTorch may wrap what the disk reported.
            if not isinstance(error, OSError) and not isinstance(error.__context__, OSError):
                raise
            raise OSError(
                f"The checkpoint {path} could not be written ({error}); the one before it, if any, "
                "is as it was. See whether the disk is full or over its quota."
            ) from error
        unfinished.replace(path)
        _bring_to_disk(path.parent)


class CheckpointWithinEpochs(ModelCheckpoint):
    """Lightning's callback for checkpoints by time or steps, at points that can be resumed exactly.

    A checkpoint holds neither gradients that are being accumulated nor the validation that is due
    after an epoch's last step; so it waits for the next step of the optimizer, and the last one of
    an epoch is left to the callback that saves when the epoch ends.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to."""
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if accumulated and not trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint that a training should go on from.

    Parameters
    ----------
    folder : pathlib.Path
        Where a run keeps its checkpoints. It need not exist.

    Returns
    -------
    pathlib.Path or None
        The newest ``.ckpt`` file, by its time of writing, that is whole; None if there is none.
        Files that are newer but torn are passed over with a warning that names them.
    """
    if not folder.is_dir():
        return None
    files = [path for path in folder.glob(f"*{_SUFFIX}") if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        damage = find_damage(path)
        if damage is None:
            return path
        logger.warning("%s is damaged (%s) and passed over.", path, damage)
    return None


def find_damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's file, or return None if it is whole.

    PyTorch's files are zip archives. Their directory stands at the end, so that a file that was cut
    off has none; bytes that changed are found by the checksum of each tensor. This takes about a
    second per gigabyte and no memory to speak of.

    Parameters
    ----------
    path : pathlib.Path
        A file written by :func:`torch.save`.

    Returns
    -------
    str or None
        A few words, for a message.
    """
    if not path.stat().st_size:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception as error:  # a changed header may mean a password, a compression or no text
        return f"it is cut off or unreadable: {str(error)[:100]}"
    return None if changed is None else f"{changed} is not as it was written"


def _bring_to_disk(folder: Path) -> None:
    """Let a rename survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
