"""mmlearn's contrastive pretraining, made to run any experiment of this project as it is."""

from collections.abc import Mapping
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from mmlearn.datasets.core.modalities import Modality
from mmlearn.tasks import ContrastivePretraining
from torch import nn
from torch.nn import functional as F

from projects.bioscan_clip.datasets.transforms import finish_batch
from projects.bioscan_clip.tasks.losses import LabelAwareContrastiveLoss

# Lightning reads checkpoints with `weights_only=True`. Those of mmlearn's own project carry their
# optimizer and schedule as partials of these classes; nothing else may be unpickled.
torch.serialization.add_safe_globals(
    [partial, torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR]
)


class BioscanPretraining(ContrastivePretraining):
    """Contrastive pretraining of photo, barcode and name encoders.

    The same state dict as mmlearn's :class:`~mmlearn.tasks.ContrastivePretraining`; besides

    - an encoder or head that is None leaves its modality out;
    - a schedule that needs ``total_steps`` gets the trainer's estimate unless it is set;
    - photos are flipped, rotated and normalised on the device that trains;
    - an evaluation batch goes through each encoder once, for the loss and all evaluation tasks;
    - a :class:`LabelAwareContrastiveLoss` gets the labels it needs;
    - checkpoints hold plain values only, so that they load with ``weights_only=True``.

    Parameters
    ----------
    encoders : dict of str to torch.nn.Module or None
        Encoders by modality.
    heads : dict of str to torch.nn.Module or None, optional
        Projection heads by modality.
    **kwargs
        As in mmlearn's class.

    Raises
    ------
    ValueError
        If a label-aware loss is combined with auxiliary tasks.
    """

    lr_scheduler: Any

    def __init__(
        self,
        encoders: dict[str, nn.Module | None],
        heads: dict[str, nn.Module | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoders=_without_none(encoders),
            heads=_without_none(heads) or None if heads else None,
            **kwargs,
        )
        if isinstance(self.loss_fn, LabelAwareContrastiveLoss) and self.auxiliary_tasks:
            raise ValueError("LabelAwareContrastiveLoss cannot be combined with auxiliary tasks.")
        self._evaluated_batch: dict[str, Any] | None = None
        self._encoded: dict[str, torch.Tensor] = {}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure optimizer and schedule; ``total_steps`` comes from the trainer unless set."""
        schedule = self.lr_scheduler
        try:
            if isinstance(schedule, Mapping) and "scheduler" in schedule:
                timed = self._with_steps(schedule["scheduler"])
                self.lr_scheduler = {**schedule, "scheduler": timed}
            elif schedule is not None:
                self.lr_scheduler = self._with_steps(schedule)
            return super().configure_optimizers()
        finally:
            self.lr_scheduler = schedule  # a later training may take another number of steps

    def encode(
        self, inputs: dict[str, Any], modality: Modality, normalize: bool = False
    ) -> torch.Tensor:
        """Encode one modality; within an evaluation step, each batch and modality only once."""
        if inputs is not self._evaluated_batch:
            encoded: torch.Tensor = super().encode(inputs, modality, normalize=normalize)
            return encoded
        if modality.name not in self._encoded:
            specimens = len(inputs[modality.name])
            self._encoded[modality.name] = super().encode(_in_eights(inputs), modality)[:specimens]
        encoded = self._encoded[modality.name]
        return F.normalize(encoded, p=2, dim=-1) if normalize else encoded

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Finish photos on the device that trains; see :class:`SpecimenLoader`."""
        return finish_batch(super().on_after_batch_transfer(batch, dataloader_idx))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Compute the loss, and count the photos that could not be decoded."""
        if "bad_image" in batch:
            self.log(
                "train/bad_images",
                batch["bad_image"].float().sum(),
                on_step=False,
                on_epoch=True,
                reduce_fx="sum",
                sync_dist=True,
            )
        loss: torch.Tensor = super().training_step(batch, batch_idx)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only plain hyperparameters in the file."""
        super().on_save_checkpoint(checkpoint)
        hyperparameters = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {
            name: value if _is_plain(value) else repr(value)
            for name, value in hyperparameters.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume a training beyond the end of its schedule.

        Raises
        ------
        ValueError
            If the checkpoint's schedule has fewer steps than the training that it resumes.
        """
        super().on_load_checkpoint(checkpoint)
        if not self.trainer.training:
            return
        steps = self.trainer.estimated_stepping_batches
        for schedule in checkpoint.get("lr_schedulers", []):
            if schedule.get("total_steps", steps) < steps:
                raise ValueError(
                    f"The checkpoint's schedule ends after {schedule['total_steps']} steps, but "
                    f"this training takes {int(steps)}: resume with the epochs, batch size and "
                    "devices it was begun with, or set the schedule's total_steps from the start."
                )

    def _with_steps(self, scheduler: Any) -> Any:
        """Fill in a schedule's missing ``total_steps``; `scheduler` takes the optimizer."""
        parameters = signature(scheduler.func).parameters
        given = scheduler.keywords
        if "total_steps" not in parameters or given.get("total_steps") or given.get("epochs"):
            return scheduler
        steps = self.trainer.estimated_stepping_batches
        if not 0 < steps < float("inf"):
            raise ValueError(
                f"{scheduler.func.__name__} needs the number of training steps, but the trainer "
                "runs without end: set trainer.max_epochs or trainer.max_steps, or the schedule's "
                "own total_steps."
            )
        return partial(scheduler, total_steps=int(steps))

    def _compute_loss(
        self, batch: dict[str, Any], batch_idx: int, outputs: dict[str, torch.Tensor]
    ) -> torch.Tensor | None:
        if not isinstance(self.loss_fn, LabelAwareContrastiveLoss):
            loss: torch.Tensor | None = super()._compute_loss(batch, batch_idx, outputs)
            return loss
        labels = self.loss_fn.labels_of(batch)
        scale = self.log_logit_scale.exp()
        label_aware: torch.Tensor = self.loss_fn(outputs, labels, scale, self.modality_loss_pairs)
        return label_aware

    def _shared_eval_step(
        self, batch: dict[str, torch.Tensor], batch_idx: int, eval_type: Literal["val", "test"]
    ) -> torch.Tensor | None:
        self._evaluated_batch = batch
        try:
            loss: torch.Tensor | None = super()._shared_eval_step(batch, batch_idx, eval_type)
            return loss
        finally:
            self._evaluated_batch = None
            self._encoded.clear()


def _in_eights(batch: dict[str, Any]) -> dict[str, Any]:
    """Repeat a batch's first row until there is a multiple of eight.

    Kernels sum in another order for the rows that are left over from their blocks. Without such
    rows, an embedding on a CPU does not depend on the batch it came in, to the last bit, and
    neither do the neighbours found by it.
    """
    rows = len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
    positions = torch.arange(rows + -rows % 8)
    positions[rows:] = 0
    return {
        name: value[positions.to(value.device)] if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def _without_none(modules: dict[str, nn.Module | None]) -> dict[str, nn.Module]:
    return {name: module for name, module in modules.items() if module is not None}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
