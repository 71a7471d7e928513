"""Checkpoints: written whole or not at all, checked before they are read, small if so chosen."""

import logging
import zipfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from projects.bioscan_clip.encoders.pretrained import is_model, read_model
from projects.bioscan_clip.encoders.weights import unreadable_as
from projects.bioscan_clip.files import write_whole

logger = logging.getLogger(__name__)

# What Lightning looks for in a checkpoint besides weights.
_AT_START: Final = {"epoch": 0, "global_step": 0, "hyper_parameters": {}}

# Checkpoints of mmlearn's own project carry their optimizer and schedule as partials of these, and
# partials made by Hydra are of a class of its own. Nothing else may be unpickled.
_SAFE: Final = (
    partial,
    (partial, "hydra._internal.target_policy._DeferredTarget"),
    torch.optim.AdamW,
    torch.optim.lr_scheduler.OneCycleLR,
)


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
        if storage_options is not None or _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        for unfinished in path.parent.glob("*.part"):  # of a process that was killed
            unfinished.unlink()
        try:
            write_whole(path, partial(_write, checkpoint))
        except (OSError, RuntimeError) as error:
            # PyTorch may wrap what the disk reported.
            if not isinstance(error, OSError) and not isinstance(error.__context__, OSError):
                raise
            raise OSError(
                f"The checkpoint {path} could not be written ({error}); the one before it, if any, "
                "is as it was. See whether the disk is full or over its quota."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that was written by Lightning, without running code from it.

        Parameters
        ----------
        path : str or pathlib.Path
            A file that this project or mmlearn's own one wrote.
        map_location : optional
            Where tensors go, as in :func:`torch.load`.
        weights_only : bool, optional
            For Lightning; code is never run.

        Returns
        -------
        dict
            The checkpoint; of a model that was exported or imported, its weights as one.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, holds Python objects, or is no checkpoint of Lightning.
        """
        if is_model(path):
            weights = read_model(path).state_dict
            return {"state_dict": weights, "pytorch-lightning_version": pl.__version__} | _AT_START
        if not _is_remote(path):
            path = Path(path).expanduser()
            if not path.is_file():
                raise FileNotFoundError(f"There is no checkpoint {path}.")
            damage = find_damage(path)
            if damage is not None:
                raise ValueError(
                    f"The checkpoint {path} is damaged: {damage}. Copy it again, or name another "
                    "one of its folder."
                )
        with (
            unreadable_as(
                f"{path} cannot be read as a checkpoint. It holds Python objects, which could run "
                "foreign code, or was not written by PyTorch: name one that this project or "
                "mmlearn's bioscan_clip project wrote."
            ),
            torch.serialization.safe_globals(list(_SAFE)),
        ):
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        if not isinstance(checkpoint, dict) or "pytorch-lightning_version" not in checkpoint:
            raise ValueError(
                f"{path} is no checkpoint of a Lightning training but weights alone, as CLIBD's "
                "published .pth files are: turn those into a folder by `bioscan-clip model import "
                "clibd`, and name that. Else name a .ckpt file that this project or mmlearn's "
                "bioscan_clip project wrote."
            )
        return checkpoint


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
    """Find the checkpoint that a training should resume from.

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
    files = [path for path in folder.glob("*.ckpt") if path.is_file()]
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


def check_fit(state_dict: Mapping[str, Tensor], model: nn.Module, partial: bool = False) -> None:
    """Check that weights belong to a model.

    Parameters
    ----------
    state_dict : mapping of str to torch.Tensor
        From a checkpoint.
    model : torch.nn.Module
        Where they are to be loaded.
    partial : bool, default=False
        Whether the model may have weights besides.

    Raises
    ------
    ValueError
        If names or shapes differ; it names the first few.
    """
    own = model.state_dict()
    missing = [] if partial else [name for name in own if name not in state_dict]
    unexpected = [name for name in state_dict if name not in own]
    resized = [
        f"{name} {tuple(weight.shape)} instead of {tuple(own[name].shape)}"
        for name, weight in state_dict.items()
        if name in own and weight.shape != own[name].shape
    ]
    faults = [
        f"{fault} {_first_few(names)}"
        for fault, names in (
            ("it lacks", missing),
            ("it has unknown", unexpected),
            ("it has", resized),
        )
        if names
    ]
    if faults:
        raise ValueError(
            f"The checkpoint is of another experiment than this one: {'; '.join(faults)}. Choose "
            "the encoders, heads, `lora` and `modalities` it was trained with."
        )


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # by Python, which says what the disk reported
        torch.save(checkpoint, file)


def _is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def _first_few(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:3])
    more = len(names) - 3
    return shown if more <= 0 else f"{shown} and {more} more"
