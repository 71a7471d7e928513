"""A trained model as a folder that others load in one line, here or from the Hugging Face Hub.

The folder holds no pickle, and the same model gives the same bytes.
"""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from safetensors.torch import save
from torch import Tensor

from projects.bioscan_clip.encoders.configuration import FORMAT_VERSION
from projects.bioscan_clip.encoders.frozen import BASE_KEY, leave_out_frozen
from projects.bioscan_clip.encoders.pretrained import (
    CONFIG_FILE,
    LOGIT_SCALE,
    MODEL_TYPE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.inference.card import model_card

if TYPE_CHECKING:
    from projects.bioscan_clip.inference.model import Model

logger = logging.getLogger(__name__)

CARD_FILE: Final = "README.md"
EVALUATION_FILE: Final = "evaluation.json"
CALIBRATION_FILE: Final = "calibration.json"

_FILES: Final = (
    CARD_FILE,
    CALIBRATION_FILE,
    EVALUATION_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    CONFIG_FILE,  # last: a folder without it is not whole
)
_RECIPE: Final = {
    "loss": "task.loss",
    "optimizer": "task.optimizer",
    "schedule": "task.lr_scheduler.scheduler",
    "epochs": "trainer.max_epochs",
    "batch size per device": "dataloader.train.batch_size",
    "devices": "trainer.devices",
    "batches accumulated": "trainer.accumulate_grad_batches",
    "precision": "trainer.precision",
    "barcode augmentation": "datasets.train.barcode_augmentation",
}
_TOLD: Final = (
    "lr",
    "betas",
    "eps",
    "weight_decay",
    "max_lr",
    "pct_start",
    "anneal_strategy",
    "div_factor",
    "final_div_factor",
    "positives",
)
_LIBRARIES: Final = ("peft", "safetensors", "timm", "torch", "transformers")


def save_pretrained(
    model: "Model",
    folder: str | Path,
    *,
    merge: bool = True,
    adapters_only: bool = False,
    evaluations: Sequence[str | Path] = (),
    library: str | Path | None = None,
    repo_id: str | None = None,
    force: bool = False,
) -> Path:
    """Write a model as a folder that :func:`~.model.load_model` takes.

    Parameters
    ----------
    model : Model
        What to write.
    folder : str or pathlib.Path
        Where to; made if missing.
    merge : bool, default=True
        Whether adapters become part of the weights below them. Embeddings then differ by rounding
        only; without, they are equal to the last bit, and PEFT is needed to load the model.
    adapters_only : bool, default=False
        Whether to leave out the pretrained weights that training did not change. The folder then
        holds their hash, and loading it takes the same pretrained weights, from where training has
        them.
    evaluations : sequence of str or pathlib.Path
        Output folders of ``job_type=eval`` with this model, or with its siblings of other seeds,
        for the card and ``evaluation.json``.
    library : str or pathlib.Path, optional
        A reference library of this model that is calibrated, for ``calibration.json``.
    repo_id : str, optional
        What the model will be called on the Hugging Face Hub, for the card.
    force : bool, default=False
        Whether a folder that holds files may be written to.

    Returns
    -------
    pathlib.Path
        `folder`.

    Raises
    ------
    FileExistsError
        If the folder holds files, and not `force`.
    ValueError
        If the folder is the model's own, no modality has adapters but they alone are wanted, or an
        evaluation or library cannot be used.
    """
    folder = Path(folder)
    _check_folder(folder, model.source, force)
    configuration, weights = _contents(model, merge and not adapters_only, adapters_only)
    configuration |= {
        "model_type": MODEL_TYPE,
        "format_version": FORMAT_VERSION,
        "version": version("bioscan-clip"),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "dimension": model.dimension,
        "logit_scale": model.logit_scale,
    }
    if recipe := _recipe(model.source):
        configuration["recipe"] = recipe
    evaluated = _evaluated(evaluations)
    calibration = None if library is None else _calibration(model, Path(library))
    texts = {
        CARD_FILE: model_card(configuration, evaluated, calibration, repo_id or folder.name),
        CALIBRATION_FILE: calibration and _json(calibration),
        EVALUATION_FILE: evaluated and _json(evaluated),
        CONFIG_FILE: _json(configuration),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    if "text" in model.modalities:
        _save_tokenizer(model, folder / TOKENIZER_FILE)
    content = save(weights, {"format": "pt"})  # save_file would make it unreadable for others
    write_whole(folder / WEIGHTS_FILE, lambda path: path.write_bytes(content))
    for name, text in texts.items():
        if text:
            write_whole(folder / name, partial(_write_text, text))
    return folder


def push_to_hub(
    model: "Model",
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload model",
    **options: Any,
) -> str:
    """Publish a model on the Hugging Face Hub, where ``load_model("hf-hub:...")`` finds it.

    Parameters
    ----------
    model : Model
        What to publish.
    repo_id : str
        ``owner/name``; made if there is none.
    private, token, branch, create_pr, commit_message
        As in huggingface_hub's ``PyTorchModelHubMixin.push_to_hub``.
    **options
        As for :func:`save_pretrained`.

    Returns
    -------
    str
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, repo_id=repo_id, **options)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
        )
    return str(commit.commit_url)


def save_timm(model: "Model", folder: str | Path) -> Path:
    """Write the photo encoder as a model of timm's own, for ``create_model("local-dir:...")``.

    Parameters
    ----------
    model : Model
        A model with an encoder of photos.
    folder : str or pathlib.Path
        Where to; it should be empty or not be there.

    Returns
    -------
    pathlib.Path
        `folder`, which may be uploaded to the Hub as it is, for ``create_model("hf-hub:...")``.
    """
    from timm.models import save_for_hf

    folder = Path(folder)
    _check_folder(folder, model.source, force=False)
    part = model.configuration["modalities"].get("rgb")
    if part is None:
        raise ValueError(f"{model.source} has no encoder of photos.")
    network = _merged(model.network)
    vit, preprocessing = network.encoders["rgb"].model, part["preprocessing"]
    size = preprocessing["image_size"]
    data = {
        "input_size": (3, size, size),
        "interpolation": preprocessing.get("interpolation", "bilinear"),
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": preprocessing["mean"],
        "std": preprocessing["std"],
    }
    arguments = part["encoder"].get("model_kwargs") or None
    save_for_hf(vit, str(folder), model_args=arguments, safe_serialization=True, data_config=data)
    return folder


def _save_tokenizer(model: "Model", path: Path) -> None:
    try:
        model.taxon_tokenizer().save(path)
    except OSError as error:
        logger.warning("%s is left out: names need what it was made of. %s", path, error)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")


def _contents(
    model: "Model", merge: bool, adapters_only: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and weights, by the names that checkpoints give them."""
    configuration = dict(model.configuration)
    parts = configuration["modalities"]
    adapted = [name for name, part in parts.items() if part["lora"] is not None]
    if adapters_only and not adapted:
        raise ValueError(
            f"{model.source} has no adapters: all its weights were trained, or adapters are merged "
            "already. Export it whole."
        )
    if adapters_only and not all(parts[name].get("pretrained", True) for name in adapted):
        raise ValueError(
            f"{model.source} was trained on top of random weights, which nobody else has. Export "
            "it whole."
        )
    network = _merged(model.network) if merge and adapted else model.network
    if merge:
        configuration["modalities"] = {
            name: {**part, "lora": None} | ({"merged": part["lora"]} if name in adapted else {})
            for name, part in parts.items()
        }
    content: dict[str, Any] = {
        "state_dict": {**network.state_dict(), LOGIT_SCALE: model.log_logit_scale}
    }
    if adapters_only:
        leave_out_frozen(content, network)
        configuration[BASE_KEY] = content[BASE_KEY]
    return configuration, {
        name: weight.detach().cpu().contiguous() for name, weight in content["state_dict"].items()
    }


def _merged(network: Any) -> Any:
    """Return a copy whose adapters are part of the weights below them."""
    merged = copy.deepcopy(network).cpu()
    for encoder in merged.encoders.values():
        if hasattr(encoder.model, "merge_and_unload"):
            encoder.model = encoder.model.merge_and_unload()
    return merged


def _recipe(checkpoint: Path) -> dict[str, Any]:
    """Say how a checkpoint was trained, as its run's configuration tells; nothing if it is away."""
    from omegaconf import OmegaConf

    file = checkpoint.parent.parent / ".hydra" / "config.yaml"
    if not file.is_file():
        return {}
    run = OmegaConf.load(file)
    told = {what: OmegaConf.select(run, name) for what, name in _RECIPE.items()}
    plain = {
        what: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for what, value in told.items()
        if value is not None
    }
    return {what: _in_words(value) for what, value in plain.items()}


def _in_words(value: Any) -> Any:
    """Write a class and what matters of its arguments as ``AdamW, lr 0.001``."""
    if not isinstance(value, Mapping) or "_target_" not in value:
        return value
    arguments = (f"{name} {value[name]}" for name in _TOLD if value.get(name) is not None)
    return ", ".join([value["_target_"].rpartition(".")[2], *arguments])


def _evaluated(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read what evaluations found, for those who load the model and for its card."""
    import pandas as pd

    from projects.bioscan_clip.reports.results import collect_runs, read_about

    found = []
    for run in collect_runs([Path(folder) for folder in folders]):
        about = read_about(run.folder)
        if about.get("stage") != "test" or not (run.folder / "metrics.csv").is_file():
            raise ValueError(
                f"{run.folder} is no evaluation with metrics.csv on the test splits: run "
                "job_type=eval with this model, and name its output folder."
            )
        table = pd.read_csv(run.folder / "metrics.csv")
        table = table[table["k"] == 1].drop(columns="k")
        rows = json.loads(table.to_json(orient="records", double_precision=6))
        kept = ("experiment", "seed", "file", "file_size", "splits", "restrict_to", "version")
        found.append({name: about.get(name) for name in kept} | {"top1": rows})
    return sorted(found, key=lambda each: str(each["seed"]))


def _calibration(model: "Model", folder: Path) -> dict[str, Any]:
    from projects.bioscan_clip.inference.library import ReferenceLibrary

    library = ReferenceLibrary.open(folder)
    library.check_model(model.hash)
    if not library.about["calibration"]:
        raise ValueError(f"{folder} is not calibrated: run `bioscan-clip library calibrate` first.")
    return {
        "library": {"specimens": len(library), "sources": library.about["sources"]},
        "calibration": library.about["calibration"],
    }


def _check_folder(folder: Path, source: Path, force: bool) -> None:
    if folder.is_file():
        raise ValueError(f"{folder} is a file. Name a folder to write to.")
    if not folder.exists():
        return
    if folder.resolve() == source.resolve():
        raise ValueError(f"{folder} is what the model is read from. Name another folder.")
    if any(folder.iterdir()) and not force:
        raise FileExistsError(f"{folder} holds files. Use --force to write there, or name another.")


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
