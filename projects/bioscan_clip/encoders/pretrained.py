"""A trained model as it is kept: in checkpoints, exported folders, on the Hub, by CLIBD.

All are read as the same two things, a configuration and weights, and no code of theirs is run.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from projects.bioscan_clip.encoders.clibd import import_clibd, is_clibd
from projects.bioscan_clip.encoders.configuration import (
    CONFIGURATION_KEY,
    MODALITIES,
    SAMPLE_TOKENIZER,
    check_format,
    describe_model,
    infer_bert_config,
    learn_from_data,
    tokenizer_name,
)
from projects.bioscan_clip.encoders.frozen import BASE_KEY, fill_in_frozen
from projects.bioscan_clip.encoders.network import Network
from projects.bioscan_clip.encoders.text import BERT_SAMPLE
from projects.bioscan_clip.encoders.weights import read_checkpoint

logger = logging.getLogger(__name__)

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
TOKENIZER_FILE: Final = "tokenizer.json"
MODEL_TYPE: Final = "bioscan-clip"
HUB: Final = "hf-hub:"
LOGIT_SCALE: Final = "log_logit_scale"

_RUN_CONFIG: Final = Path(".hydra") / "config.yaml"
_BEST: Final = Path("checkpoints") / "best.ckpt"


@dataclass(frozen=True)
class Pretrained:
    """A trained model, as it was kept.

    Attributes
    ----------
    path : pathlib.Path
        The checkpoint, or the folder.
    configuration : dict
        From :func:`~projects.bioscan_clip.encoders.configuration.describe_model`; of a folder, all
        that its ``config.json`` holds.
    state_dict : dict of str to torch.Tensor
        Weights on the CPU, by the names that checkpoints give them.
    """

    path: Path
    configuration: dict[str, Any]
    state_dict: dict[str, Tensor]


def read_model(source: str | Path, modalities: Sequence[str] | None = None) -> Pretrained:
    """Read a trained model.

    Parameters
    ----------
    source : str or pathlib.Path
        A checkpoint, or the folder of a run, whose ``checkpoints/best.ckpt`` is taken; a folder
        that was exported; ``hf-hub:owner/name``, perhaps with ``@revision``, which is downloaded
        once; or a ``.pth`` file of CLIBD. A checkpoint of an older version is read with the
        ``.hydra/config.yaml`` of its run.
    modalities : sequence of str, optional
        Those of ``rgb``, ``dna`` and ``text`` to read; all if None. Of a folder, only their weights
        are read.

    Returns
    -------
    Pretrained
        The model.

    Raises
    ------
    FileNotFoundError
        If there is no such file or repository.
    OSError
        If the Hub cannot be reached and the model is not in its cache.
    ValueError
        If it is damaged, of a newer version, of another project, or lacks a modality.
    """
    path = locate(source)
    if path.is_dir():
        return _read_folder(path, modalities)
    configuration, state_dict = _read_file(path)
    configuration = _with_modalities(configuration, modalities, path)
    kept = _names_of(configuration, state_dict)
    return Pretrained(path, configuration, {name: state_dict[name] for name in kept})


def read_configuration(source: str | Path) -> dict[str, Any]:
    """Read what a model is, without its weights; see :func:`read_model`."""
    path = locate(source, configuration_only=True)
    configuration = _read_config(path) if path.is_dir() else _read_file(path)[0]
    return _with_modalities(configuration, None, path)


def locate(source: str | Path, configuration_only: bool = False) -> Path:
    """Return the checkpoint or exported folder that `source` names; see :func:`read_model`."""
    if str(source).startswith(HUB):
        return _download(str(source).removeprefix(HUB), configuration_only)
    path = Path(source).expanduser()
    return path / _BEST if path.is_dir() and not (path / CONFIG_FILE).is_file() else path


def absolute(source: str | Path) -> str:
    """Return a source as it is called from any folder."""
    return str(source) if str(source).startswith(HUB) else str(Path(source).absolute())


def is_model(source: str | Path) -> bool:
    """Whether a source says by itself how its encoders are built, unlike a run's checkpoint."""
    path = Path(source).expanduser()
    return str(source).startswith(HUB) or (path / CONFIG_FILE).is_file() or path.suffix == ".pth"


def _download(name: str, configuration_only: bool) -> Path:
    from huggingface_hub import snapshot_download  # takes its time to import
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = name.partition("@")
    wanted = [CONFIG_FILE] if configuration_only else ["*.json", WEIGHTS_FILE]
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=wanted)
    except GatedRepoError as error:
        raise OSError(
            f"{HUB}{name} is gated: ask for access on its page, then hf auth login."
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} on the Hugging Face Hub has no revision {revision}."
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no model {repository} on the Hugging Face Hub, or it is private: correct "
            "the name, or log in with hf auth login."
        ) from error
    except HFValidationError as error:
        raise ValueError(f"{HUB}{name} is no name of a model: write {HUB}owner/name.") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise OSError(
            f"{HUB}{name} is not in the cache, and the Hugging Face Hub cannot be reached: load it "
            "once where there is internet, without HF_HUB_OFFLINE, or name a local folder."
        ) from error
    return Path(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}, as exported models do.")
    try:
        configuration = json.loads(path.read_text("utf-8"))
        kind = configuration.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy or export the model again.") from error
    if kind != MODEL_TYPE:
        raise ValueError(
            f"{path} is of a model of another project ({kind or 'it names no model_type'}), not of "
            f"{MODEL_TYPE}: name a folder that `bioscan-clip model export` wrote."
        )
    check_format(configuration, path)
    return dict(configuration)


def _read_folder(folder: Path, modalities: Sequence[str] | None) -> Pretrained:
    configuration = _with_modalities(_read_config(folder), modalities, folder)
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, "pt") as file:
            names = _names_of(configuration, file.keys())
            state_dict = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS_FILE}.") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or export the model again.") from error
    base = configuration.pop(BASE_KEY, None)
    if base is not None:
        state_dict = _complete(state_dict, base, configuration, folder)
    return Pretrained(folder, configuration, state_dict)


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = read_checkpoint(path)
    state_dict: dict[str, Tensor] = content["state_dict"]
    if is_clibd(state_dict):
        return import_clibd(state_dict, path)
    if not any(name.startswith("encoders.") for name in state_dict):
        raise ValueError(
            f"{path} holds weights of another project, such as {next(iter(state_dict))}: name a "
            "checkpoint of this project or of mmlearn's, an exported folder, or a file of CLIBD."
        )
    configuration = content.get(CONFIGURATION_KEY)
    if configuration is None:
        configuration = _older_configuration(path, state_dict)
    check_format(configuration, path)
    if BASE_KEY in content:
        state_dict = _complete(state_dict, content[BASE_KEY], configuration, path)
    return {**configuration, **_progress(content)}, state_dict


def _progress(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Say how far a training had come, for the card."""
    if "global_step" not in checkpoint:
        return {}
    return {"trained": {"epochs": checkpoint["epoch"] + 1, "steps": checkpoint["global_step"]}}


def _complete(
    state_dict: dict[str, Tensor],
    base: Mapping[str, str],
    configuration: Mapping[str, Any],
    path: Path,
) -> dict[str, Tensor]:
    """Fill in the pretrained weights that a model was kept without."""
    chosen = {
        part: value
        for part, value in base.items()
        if part.split(".")[1] in configuration["modalities"]
    }
    checkpoint: dict[str, Any] = {"state_dict": state_dict, BASE_KEY: chosen}
    try:
        fill_in_frozen(checkpoint, Network(configuration["modalities"], pretrained=True))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} holds only what was trained, and the pretrained weights below it cannot be "
            f"had: {error}"
        ) from error
    completed: dict[str, Tensor] = checkpoint["state_dict"]
    return completed


def _with_modalities(
    configuration: dict[str, Any], wanted: Sequence[str] | None, path: Path
) -> dict[str, Any]:
    parts = configuration["modalities"]
    there = {name: parts[name] for name in MODALITIES if name in parts}  # JSON has no order
    missing = [name for name in wanted or () if name not in there]
    if missing:
        raise ValueError(
            f"{path} is a model without {' and '.join(missing)}; it has {', '.join(there)}."
        )
    chosen = {name: part for name, part in there.items() if wanted is None or name in wanted}
    return {**configuration, "modalities": chosen}


def _names_of(configuration: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return the names of these modalities' weights; a loss is of no use without a training."""
    prefixes = tuple(
        f"{kind}.{name}." for kind in ("encoders", "heads") for name in configuration["modalities"]
    )
    return [name for name in names if name.startswith(prefixes) or name == LOGIT_SCALE]


def _older_configuration(path: Path, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe the model of a checkpoint that does not, by its run's configuration."""
    from omegaconf import OmegaConf

    file = next(
        (f / _RUN_CONFIG for f in path.absolute().parents[:2] if (f / _RUN_CONFIG).is_file()), None
    )
    if file is None:
        raise FileNotFoundError(
            f"{path} is of an older version and does not say what its encoders are. Leave it in "
            f"the folder of its run, whose {_RUN_CONFIG} does."
        )
    run = OmegaConf.load(file)
    parts = {"encoders": run.task.encoders, "heads": run.task.heads, "dataset": run.datasets.train}
    config: dict[str, Any] = {
        name: None if part is None else OmegaConf.to_container(part, resolve=True)
        for name, part in parts.items()
    }
    encoders = config["encoders"]
    bert_configs = {}
    if encoders.get("dna"):
        bert_configs["dna"] = infer_bert_config(
            state_dict, "dna", encoders["dna"].get("model_config_kwargs")
        )
    if encoders.get("text"):
        bert_configs["text"] = _text_config(encoders["text"])
    config |= {"experiment": run.experiment_name, "seed": run.seed}
    config |= {name: run.task.get(name) for name in ("image_mean", "image_std")}
    configuration = describe_model(config, bert_configs)
    try:
        learn_from_data(configuration, config["dataset"])
    except (OSError, ValueError) as error:
        logger.warning(
            "The data that %s was trained on cannot be read (%s): barcodes are placed by the "
            "standard COI region, and photos cropped with the usual margin.",
            path,
            error,
        )
    return configuration


def _text_config(encoder: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    name = tokenizer_name(encoder["model_name_or_path"])
    folder = BERT_SAMPLE if name == SAMPLE_TOKENIZER else name
    options = encoder.get("model_config_kwargs") or {}
    config: dict[str, Any] = AutoConfig.from_pretrained(folder, **options).to_diff_dict()
    return config
