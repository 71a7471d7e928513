"""Checkpoints that say what their model is, so that it can be used without its configuration."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD
from projects.bioscan_clip.encoders.configuration import (
    CONFIGURATION_KEY,
    describe_model,
    learn_from_data,
)


class DescribeModel(Callback):
    """Write into checkpoints how to build the encoders and to prepare their input.

    Parameters
    ----------
    encoders, heads : mapping
        Those of the task, as configured; None leaves one out.
    dataset : mapping
        What the model is trained on, as configured.
    experiment : str, optional
        Name of the experiment.
    seed : int, optional
        Its seed.
    image_mean, image_std : sequence of float
        Of the task.
    """

    def __init__(
        self,
        encoders: Mapping[str, Any],
        heads: Mapping[str, Any] | None,
        dataset: Mapping[str, Any],
        experiment: str | None = None,
        seed: int | None = None,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
    ) -> None:
        parts = {"encoders": encoders, "heads": heads, "dataset": dataset}
        self._config: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(parts))  # type: ignore[assignment]
        self._config |= {"experiment": experiment, "seed": seed}
        self._config |= {"image_mean": list(image_mean), "image_std": list(image_std)}
        self._description: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the description; data that it cannot be made of must end a training at its start."""
        self._description = self._describe(pl_module.encoders)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the description."""
        checkpoint[CONFIGURATION_KEY] = self._description

    def _describe(self, encoders: Any) -> dict[str, Any]:
        berts = {name: encoders[name].model.config for name in ("dna", "text") if name in encoders}
        description = describe_model(
            self._config, {name: config.to_diff_dict() for name, config in berts.items()}
        )
        learn_from_data(description, self._config["dataset"])
        return description
