"""Options that are wrong by themselves end a run before it makes its output folder."""

from pathlib import Path
from typing import Any, Final

from hydra.experimental.callback import Callback
from lightning.fabric.utilities.seed import max_seed_value, min_seed_value
from omegaconf import DictConfig, OmegaConf, open_dict

# What makes a training another one. The rest, workers say, may change when it resumes.
_TRAINING: Final = (
    "seed",
    "task",
    "datasets.train",
    "dataloader.train.batch_size",
    "trainer.max_epochs",
    "trainer.max_steps",
)


class CheckOptions(Callback):
    """Ends a run with a sentence; other exceptions of callbacks are warnings to Hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run, and its folder."""
        _check(config)
        _check_checkpoint(config)
        _check_folder(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what the runs of a sweep have in common."""
        _check(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run of a sweep."""
        _check(config)
        _check_checkpoint(config)


def _check(config: DictConfig) -> None:
    name, seed = config.experiment_name, config.seed
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise SystemExit(
            f"experiment_name={name}: it names a folder in outputs; choose a name without slashes "
            "that does not begin with a dot."
        )
    if seed is None or not min_seed_value <= seed <= max_seed_value:
        raise SystemExit(f"seed={seed}: choose a number from {min_seed_value} to {max_seed_value}.")


def _check_checkpoint(config: DictConfig) -> None:
    """Keep untrained weights from being scored by mistake."""
    wanted = config.job_type.value == "eval" and not config.task.get("evaluate_untrained")
    if wanted and config.resume_from_checkpoint is None:
        raise SystemExit(
            "There is no checkpoint to evaluate: name one by resume_from_checkpoint=<file>, or set "
            "task.evaluate_untrained=true to score the weights that training begins with."
        )


def _check_folder(config: DictConfig) -> None:
    """Keep a training's folder to that training, and its configuration as it was."""
    folder = Path(config.hydra.run.dir)
    saved = folder / ".hydra" / "config.yaml"
    if not saved.is_file() or not any((folder / "checkpoints").glob("*.ckpt")):
        return
    is_eval = config.job_type.value == "eval"
    if config.hydra.output_subdir is not None:  # as in a process that Lightning started
        with open_dict(config):
            config.hydra.output_subdir = ".hydra_eval" if is_eval else ".hydra_resumed"
    if is_eval:
        return
    before = OmegaConf.load(saved)
    changed = [name for name in _TRAINING if _text(before, name) != _text(config, name)]
    if changed:
        raise SystemExit(
            f"{folder} holds a training with another configuration ({', '.join(changed)}). Choose "
            "another hydra.run.dir; resume_from_checkpoint=<file> begins from a checkpoint of it."
        )


def _text(config: Any, name: str) -> str:
    node = OmegaConf.select(config, name)
    return OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else str(node)
