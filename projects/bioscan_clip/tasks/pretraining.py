"""mmlearn's contrastive pretraining, made to run any experiment of this project as it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import Any, Final

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from mmlearn.datasets.core.modalities import Modality
from mmlearn.tasks import ContrastivePretraining
from torch import nn
from torch.nn import functional as F

from projects.bioscan_clip.datasets.schema import TEXT_IDS
from projects.bioscan_clip.datasets.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    finish_batch,
    finish_into,
)
from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT
from projects.bioscan_clip.encoders.batches import in_eights
from projects.bioscan_clip.encoders.frozen import BASE_KEY, fill_in_frozen, leave_out_frozen
from projects.bioscan_clip.encoders.lora import fuse_adapters
from projects.bioscan_clip.encoders.speed import (
    HALF,
    checkpoint_activations,
    compile_encoder,
    compile_function,
    copy_aside,
    halve_frozen,
    keep_all_patches,
)
from projects.bioscan_clip.encoders.text import TextEncoder
from projects.bioscan_clip.tasks.checkpoints import check_fit
from projects.bioscan_clip.tasks.gradient_caching import check_chunks, encode_in_chunks
from projects.bioscan_clip.tasks.losses import LABELS, MATCHED, GatheredLoss, are_matched

_SKIPPED_IN_A_ROW: Final = 10
"""In fp16 a batch may overflow, and the gradient scaler skips its step. More of them in a row say
that the weights themselves are lost."""

_OTHER_TOKENS: Final = {
    "dna": "Set the tokenizer's `k` to the one that the encoder was pretrained with.",
    "text": f"Tokenize the names for this encoder: correct the column `{TEXT_IDS}`.",
}


class BioscanPretraining(ContrastivePretraining):
    """Contrastive pretraining of photo, barcode and name encoders.

    The same state dict as mmlearn's :class:`~mmlearn.tasks.ContrastivePretraining`; besides

    - an encoder or head that is None leaves its modality out;
    - a schedule that needs ``total_steps`` gets the trainer's estimate unless it is set;
    - photos are flipped, rotated and normalised on the device that trains;
    - an evaluation batch goes through each encoder once, for the loss and all evaluation tasks;
    - a loss with a method ``labels_of`` gets the labels it needs of a batch;
    - checkpoints hold plain values only, so that they load with ``weights_only=True``;
    - a loss that is not finite ends the training, and is in no checkpoint; where a gradient scaler
      skips the step, in fp16 that is, only 11 in a row do;
    - random numbers of a training step, for dropout say, depend on seed, epoch, step and process
      alone, so that a resumed training equals an undisturbed one.

    Parameters
    ----------
    encoders : dict of str to torch.nn.Module or None
        Encoders by modality.
    heads : dict of str to torch.nn.Module or None, optional
        Projection heads by modality.
    gradient_cache_chunk : int, optional
        In training, encode so many specimens at a time and keep the activations of no others, for
        batches that do not fit in memory; see :func:`encode_in_chunks`. None encodes a batch at
        once, which is quicker.
    save_trainable_only : bool, default=False
        Whether checkpoints hold adapters, heads and all else that is trained, but no frozen
        weights. They load where the pretrained weights are the same, which is checked.
    compile_encoders : bool, default=False
        Whether encoders, and what finishes photos, are compiled for training's full batches; see
        :func:`compile_encoder`.
        Other batches, and evaluation, are encoded as they are without it.
    frozen_in_half : bool, default=False
        Whether frozen weights are kept in half precision; see :func:`halve_frozen`.
    checkpoint_layers : bool, default=False
        Whether to keep the input of each layer only; see :func:`checkpoint_activations`.
    evaluate_untrained : bool, default=False
        Whether a test without a checkpoint is meant, and not an error.
    image_mean, image_std : sequence of float
        Of red, green and blue, by which photos are normalised. Default to CLIP's.
    **kwargs
        As in mmlearn's class.

    Raises
    ------
    ValueError
        If a label-aware loss, or gradient caching, is combined with auxiliary tasks, or gradient
        caching with batch normalisation or compilation.
    """

    lr_scheduler: Any

    def __init__(
        self,
        encoders: dict[str, nn.Module | None],
        heads: dict[str, nn.Module | None] | None = None,
        gradient_cache_chunk: int | None = None,
        save_trainable_only: bool = False,
        compile_encoders: bool = False,
        frozen_in_half: bool = False,
        checkpoint_layers: bool = False,
        evaluate_untrained: bool = False,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            encoders=_without_none(encoders),
            heads=_without_none(heads) or None if heads else None,
            **kwargs,
        )
        self._labels_of = getattr(self.loss_fn, "labels_of", None)
        if self._labels_of and self.auxiliary_tasks:
            raise ValueError(
                f"{type(self.loss_fn).__name__} cannot be combined with auxiliary tasks."
            )
        self.gradient_cache_chunk = gradient_cache_chunk
        if gradient_cache_chunk is not None:
            check_chunks(self, gradient_cache_chunk)
        self.save_trainable_only = save_trainable_only
        self.evaluate_untrained = evaluate_untrained
        self._finish = partial(
            finish_batch,
            mean=tuple(image_mean),
            std=tuple(image_std),
            compiled=compile_function(finish_into) if compile_encoders else None,
        )
        fuse_adapters(self)
        if compile_encoders and gradient_cache_chunk is not None:
            raise ValueError("`compile_encoders` cannot be combined with `gradient_cache_chunk`.")
        self.compile_encoders = compile_encoders
        self.frozen_in_half = frozen_in_half
        for encoder in self.encoders.values():
            if checkpoint_layers:
                checkpoint_activations(encoder)
            if compile_encoders:
                compile_encoder(encoder)
        self._full_batch = 0
        self._frozen_hashes: dict[str, str] | None = None
        self._seed = torch.initial_seed()
        self._losses: list[tuple[int, float, torch.Tensor]] = []
        self._losses_lost = 0
        self._matched = False
        self._evaluated_batch: dict[str, Any] | None = None
        self._padded_batch: dict[str, Any] = {}
        self._encoded: dict[str, torch.Tensor] = {}

    def setup(self, stage: str) -> None:
        """Halve frozen weights as the trainer's precision would."""
        self._frozen_hashes = None
        if self.frozen_in_half:
            halve_frozen(self, str(self.trainer.precision))

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
        if self.gradient_cache_chunk and torch.is_grad_enabled():
            encode = partial(self._encode_chunk, modality=modality, normalize=normalize)
            return encode_in_chunks(encode, inputs, self.gradient_cache_chunk)
        if inputs is not self._evaluated_batch:
            encoded: torch.Tensor = super().encode(inputs, modality, normalize=normalize)
            return encoded
        if modality.name not in self._encoded:
            specimens = len(inputs[modality.name])
            self._encoded[modality.name] = super().encode(self._padded_batch, modality)[:specimens]
        encoded = self._encoded[modality.name]
        return F.normalize(encoded, p=2, dim=-1) if normalize else encoded

    def on_before_batch_transfer(
        self, batch: dict[str, Any], dataloader_idx: int
    ) -> dict[str, Any]:
        """Look at ids, and refuse unknown tokens, as long as no GPU has to wait for that."""
        prepared: dict[str, Any] = super().on_before_batch_transfer(batch, dataloader_idx)
        for modality, encoder in self.encoders.items():
            if isinstance(encoder, BarcodeBERT | TextEncoder):
                self._check_tokens(prepared, modality, encoder.model.config.vocab_size)
        self._matched = are_matched(prepared["example_ids"])
        return prepared

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Move a batch to the device that trains; to a GPU while it computes the last step."""
        move = partial(super().transfer_batch_to_device, batch, device, dataloader_idx)
        moved: dict[str, Any] = copy_aside(move, device) if device.type == "cuda" else move()
        return moved

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Finish photos on the device that trains, and give a label-aware loss its labels."""
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        if isinstance(self.loss_fn, GatheredLoss):
            batch = {**batch, "example_ids": {**batch["example_ids"], MATCHED: self._matched}}
        if self._labels_of:
            ids = {**batch["example_ids"], LABELS: self._labels_of(batch)}
            batch = {**batch, "example_ids": ids}
        if self.gradient_cache_chunk and self.trainer.training:
            return batch  # chunks are finished when they are encoded
        with self._compiled(batch if self.trainer.training else None):
            return self._finish(batch)

    def on_train_epoch_start(self) -> None:
        """Let the last epoch see whole photos, as evaluation does."""
        super().on_train_epoch_start()
        if self.current_epoch + 1 == self.trainer.max_epochs:
            keep_all_patches(self)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed what a step draws, on CPU and GPU, by the step's place in the training."""
        place = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

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
        with self._compiled(batch):
            loss: torch.Tensor = super().training_step(batch, batch_idx)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._losses.append((self.global_step + 1, rate, loss.detach()))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Check losses when one is logged, since each look at them waits for the device."""
        if (batch_idx + 1) % (self.trainer.log_every_n_steps or 100) == 0:
            self._check_losses()

    def on_validation_start(self) -> None:
        """Say that a loss was not finite before embeddings, which are not either, are scored."""
        super().on_validation_start()
        self._check_losses()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor | None:
        """Compute the loss and let evaluation tasks see the batch."""
        with self._encoding_once(batch):
            loss: torch.Tensor | None = super().validation_step(batch, batch_idx)
            return loss

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor | None:
        """Do the same for a test."""
        with self._encoding_once(batch):
            loss: torch.Tensor | None = super().test_step(batch, batch_idx)
            return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only plain hyperparameters in the file, and only what was trained if so chosen.

        Raises
        ------
        FloatingPointError
            If a loss since the last checkpoint was not finite, and its step not skipped.
        """
        self._check_losses()
        super().on_save_checkpoint(checkpoint)
        if self.frozen_in_half:
            checkpoint["state_dict"] = {
                name: weight.float() if weight.dtype in HALF.values() else weight
                for name, weight in checkpoint["state_dict"].items()
            }
        if self.save_trainable_only:
            self._frozen_hashes = leave_out_frozen(checkpoint, self, self._frozen_hashes)
        hyperparameters = checkpoint.get("hyper_parameters", {})
        checkpoint["hyper_parameters"] = {
            name: value if _is_plain(value) else repr(value)
            for name, value in hyperparameters.items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in what was not saved, and refuse what cannot be resumed.

        Raises
        ------
        ValueError
            If the checkpoint is of another experiment, was trained on top of other pretrained
            weights, or cannot be resumed: its schedule has fewer steps than this training, or its
            weights, and so the optimizer's, come in another order.
        """
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["state_dict"]
        if self.strict_loading:
            check_fit(checkpoint["state_dict"], self, partial=BASE_KEY in checkpoint)
        fill_in_frozen(checkpoint, self)
        self._frozen_hashes = None
        if not self.trainer.training:
            return
        if list(saved) != [name for name in self.state_dict() if name in saved]:
            raise ValueError(
                "The checkpoint's encoders come in another order than this experiment's, as those "
                "of mmlearn's own project do, so that its training cannot be resumed. It can be "
                "scored with job_type=eval; or train anew without resume_from_checkpoint."
            )
        steps = self._training_steps()
        for schedule in checkpoint.get("lr_schedulers", []):
            if schedule.get("total_steps", steps) < steps:
                raise ValueError(
                    f"The checkpoint's schedule ends after {schedule['total_steps']} steps, but "
                    f"this training takes {int(steps)}: resume with the epochs, batch size and "
                    "devices it was begun with, or set the schedule's total_steps from the start."
                )

    def _check_losses(self) -> None:
        """End a training whose loss is not finite, in fp16 one whose losses stay so."""
        losses, self._losses = self._losses, []
        values = torch.stack([loss for _, _, loss in losses]).tolist() if losses else []
        is_scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        for (step, rate, _), value in zip(losses, values, strict=True):
            self._losses_lost = 0 if math.isfinite(value) else self._losses_lost + 1
            if self._losses_lost > (_SKIPPED_IN_A_ROW if is_scaled else 0):
                raise FloatingPointError(
                    f"The loss is {value} at step {step}, at a learning rate of {rate:.2e}. Resume "
                    "from a checkpoint before it, or train anew, with a lower task.optimizer.lr or "
                    "with trainer.gradient_clip_val=1."
                )

    def _encode_chunk(
        self, inputs: dict[str, Any], modality: Modality, normalize: bool
    ) -> torch.Tensor:
        """Encode a chunk of a batch, whose photos take a quarter of the memory until then."""
        finished = self._finish(inputs) if modality.name == "rgb" else inputs
        encoded: torch.Tensor = super().encode(finished, modality, normalize=normalize)
        return encoded

    def _check_tokens(self, batch: dict[str, Any], modality: str, known: int) -> None:
        tokens, trainer = batch[modality], self.trainer
        unknown = (tokens < 0) | (tokens >= known)
        if tokens.is_floating_point() or not unknown.any():  # features are no tokens
            return
        position, place = unknown.nonzero()[0].tolist()
        loaders = (
            (trainer.training and trainer.train_dataloader)
            or (trainer.testing and trainer.test_dataloaders)
            or trainer.val_dataloaders
        )
        source, row = (int(batch[key][position]) for key in ("dataset_index", "example_index"))
        raise ValueError(
            f"{loaders.dataset.datasets[source].describe(row)}: the encoder of {modality} knows "
            f"{known} tokens, but is given token {int(tokens[position, place])}. "
            f"{_OTHER_TOKENS[modality]}"
        )

    def _with_steps(self, scheduler: Any) -> Any:
        """Fill in a schedule's missing ``total_steps``; `scheduler` takes the optimizer."""
        parameters = signature(scheduler.func).parameters
        given = scheduler.keywords
        if "total_steps" not in parameters or given.get("total_steps") or given.get("epochs"):
            return scheduler
        steps = self._training_steps()
        if not 0 < steps < float("inf"):
            raise ValueError(
                f"{scheduler.func.__name__} needs the number of training steps, but the trainer "
                "runs without end: set trainer.max_epochs or trainer.max_steps, or the schedule's "
                "own total_steps."
            )
        return partial(scheduler, total_steps=int(steps))

    def _training_steps(self) -> int | float:
        """Estimate how many steps the training takes, and leave no trace of that.

        To count batches, Lightning sets up its loader. Unless that is undone, it would begin a
        resumed epoch at its first batch (Lightning-AI/pytorch-lightning issue 20550).
        """
        steps: int | float = self.trainer.estimated_stepping_batches
        self.trainer.fit_loop._combined_loader = None
        return steps

    def _compiled(self, batch: dict[str, Any] | None) -> AbstractContextManager[None]:
        """Use compiled encoders for full batches of training; no other shape is compiled."""
        if not self.compile_encoders:
            return nullcontext()
        if batch is not None:
            specimens = max(len(part) for part in batch.values() if isinstance(part, torch.Tensor))
            self._full_batch = max(self._full_batch, specimens)
            if specimens == self._full_batch:
                return nullcontext()
        eager: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
        return eager

    @contextmanager
    def _encoding_once(self, batch: dict[str, Any]) -> Iterator[None]:
        """Keep a batch's embeddings, which its loss and its evaluation tasks share."""
        self._evaluated_batch, self._padded_batch = batch, in_eights(batch)
        try:
            with self._compiled(None):
                yield
        finally:
            self._evaluated_batch, self._padded_batch = None, {}
            self._encoded.clear()


def _without_none(modules: dict[str, nn.Module | None]) -> dict[str, nn.Module]:
    return {name: module for name, module in modules.items() if module is not None}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
