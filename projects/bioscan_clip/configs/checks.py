"""Options that are wrong by themselves end a run before it makes its output folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.fabric.utilities.seed import max_seed_value, min_seed_value
from omegaconf import DictConfig, OmegaConf, open_dict

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders.configuration import MODALITIES
from projects.bioscan_clip.encoders.network import build_encoder, build_head
from projects.bioscan_clip.encoders.pretrained import is_model, read_configuration

# What makes a training another one. The rest, workers say, may change when it resumes.
_TRAINING: Final = (
    "seed",
    "task",
    "datasets.train",
    "dataloader.train.batch_size",
    "trainer.max_epochs",
    "trainer.max_steps",
)


_TOKENIZER: Final = f"{KmerTokenizer.__module__}.{KmerTokenizer.__name__}"


class CheckOptions(Callback):
    """Ends a run with a sentence; other exceptions of callbacks are warnings to Hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run, and its folder."""
        _check(config)
        _check_checkpoint(config)
        _check_folder(config)
        _use_model(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what the runs of a sweep have in common."""
        _check(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run of a sweep."""
        _check(config)
        _check_checkpoint(config)
        if _names_model(config) and config.hydra.mode == RunMode.MULTIRUN:
            raise SystemExit(
                f"{config.resume_from_checkpoint} says by itself how its encoders are built, which "
                "a --multirun does not follow: score it without --multirun."
            )


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


def _names_model(config: DictConfig) -> bool:
    source = config.resume_from_checkpoint
    return source is not None and is_model(source)


def _use_model(config: DictConfig) -> None:
    """Build what an exported or imported model says of itself, not what the experiment does."""
    if not _names_model(config):
        return
    source = config.resume_from_checkpoint
    if config.job_type.value != "eval":
        raise SystemExit(
            f"{source} holds weights without the state of a training, which cannot be resumed; "
            "job_type=eval scores it."
        )
    try:
        parts = read_configuration(source)["modalities"]
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    with open_dict(config):
        config.task.heads = config.task.heads or {}
        for name in MODALITIES:
            part = parts.get(name) or {"encoder": None, "head": None}
            config.task.encoders[name] = part["encoder"] and _built_by(
                build_encoder, {"part": {key: part[key] for key in ("encoder", "lora")}}
            )
            config.task.heads[name] = part["head"] and _built_by(build_head, {"head": part["head"]})
        for split in config.datasets.test.values():
            if "rgb" in parts:
                prepared = parts["rgb"]["preprocessing"]
                split.image_size = prepared["image_size"]
                split.interpolation = prepared.get("interpolation", "bilinear")
            if "dna" in parts:
                split.tokenizer = {"_target_": _TOKENIZER, **parts["dna"]["tokenizer"]}
        if "rgb" in parts:
            config.task.image_mean = parts["rgb"]["preprocessing"]["mean"]
            config.task.image_std = parts["rgb"]["preprocessing"]["std"]


def _built_by(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node that Hydra builds without building what is in it."""
    target = f"{function.__module__}.{function.__name__}"
    return {"_target_": target, "_recursive_": False, "_convert_": "all", **arguments}


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
    changed = [
        difference
        for name in _TRAINING
        for difference in _differences(_plain(before, name), _plain(config, name), name)
    ]
    if changed:
        raise SystemExit(
            f"{folder} holds a training with another configuration ({', '.join(changed)}). Choose "
            "another hydra.run.dir; resume_from_checkpoint=<file> begins from a checkpoint of it."
        )


def _plain(config: Any, name: str) -> Any:
    node = OmegaConf.select(config, name)
    return OmegaConf.to_container(node, enum_to_str=True) if OmegaConf.is_config(node) else node


def _differences(before: Any, now: Any, name: str) -> list[str]:
    """Return the names of options that have changed; one that an older version lacked has not."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key, value in before.items()
            for difference in _differences(value, now.get(key), f"{name}.{key}")
        ]
    return [] if before == now else [name]
