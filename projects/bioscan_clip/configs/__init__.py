"""What users type: Hydra config groups of this project.

Hydra imports this package when it is on its search path (``hydra_plugins.bioscan_clip`` puts it
there), which adds the entries below to its config store; the YAML files beside it name them.
"""

import copyreg
import os
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from typing import Any, Final

import torch
from hydra_zen import builds
from mmlearn.conf import external_store
from mmlearn.modules.encoders import TimmViT
from mmlearn.modules.layers import MLP
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks import ContrastivePretraining
from omegaconf import II, MISSING, DictConfig, OmegaConf
from peft import LoraConfig

from projects.bioscan_clip.datasets.loader import WindowedSampler
from projects.bioscan_clip.datasets.schema import EVALUATION_SPLITS, TRAINING_SPLIT
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT, tokenizer_of
from projects.bioscan_clip.encoders.photo import PhotoEncoder, photo_preprocessing
from projects.bioscan_clip.encoders.text import BERT_SAMPLE, TextEncoder
from projects.bioscan_clip.tasks.hierarchical_loss import HierarchicalContrastiveLoss
from projects.bioscan_clip.tasks.loggers import OfflineFallbackWandbLogger
from projects.bioscan_clip.tasks.losses import ChunkedContrastiveLoss, LabelAwareContrastiveLoss
from projects.bioscan_clip.tasks.pretraining import BioscanPretraining
from projects.bioscan_clip.tasks.siglip_loss import SigLIPLoss
from projects.bioscan_clip.tasks.taxonomic_classification import TaxonomicClassification

_OUTPUT_DIR: Final = II("hydra:runtime.output_dir")


# Of each encoder, the layers that get adapters and those that are trained in full.
_ADAPTED: Final[Mapping[type, tuple[list[str], list[str] | None]]] = {
    TimmViT: (["qkv"], ["head"]),
    PhotoEncoder: (["qkv"], ["head"]),
    BarcodeBERT: (["query", "value"], ["decoder"]),
    TextEncoder: (["query", "value"], None),
}


def _store_encoder(encoder: type, name: str, **arguments: Any) -> None:
    """Store an encoder with LoRA at rank 4 and PEFT's default alpha; group `lora` refines it."""
    targets, saved = _ADAPTED[encoder]
    lora = builds(LoraConfig, r=4, lora_alpha=8, target_modules=targets, modules_to_save=saved)
    external_store(
        encoder,
        group="modules/encoders",
        name=name,
        peft_config=lora,
        hydra_convert="object",  # encoders expect a real PeftConfig and real dictionaries
        **arguments,
    )


def _store_text_head(name: str, width: int) -> None:
    """Store the projection of the text encoder's `width` features to the space of the others."""
    external_store(
        MLP,
        group="modules/layers",
        name=name,
        in_dim=width,
        out_dim=II("task.encoders.rgb.projection_dim"),
    )


def _store_encoders() -> None:
    _store_encoder(
        TimmViT,
        "timm-vit-lora",
        model_name="vit_base_patch16_224",
        projection_dim=768,
    )
    _store_encoder(PhotoEncoder, "photo-encoder-lora", model_name=MISSING)
    _store_encoder(
        BarcodeBERT,
        "barcode-bert-lora",
        vocab_size=1027,
        projection_dim=768,
        # Null would mean to train from scratch, which must not happen by an unset variable.
        pretrained_checkpoint_path=II("oc.env:BARCODEBERT_5MER,'<BARCODEBERT_5MER is not set>'"),
    )
    _store_encoder(
        TextEncoder,
        "bert-small-lora",
        model_name_or_path="prajjwal1/bert-small",
    )
    _store_text_head("text-head", width=512)


def _store_sample_encoders() -> None:
    """Store encoders that learn the sample from scratch in minutes on two CPU cores."""
    _store_encoder(
        TimmViT,
        "vit-sample",
        model_name="vit_tiny_r_s16_p8_224",
        projection_dim=128,
        pretrained=False,
        # A convolutional stem learns from few photos.
        model_kwargs={
            "img_size": 80,
            "patch_size": 4,
            "embed_dim": 128,
            "depth": 3,
            "num_heads": 4,
        },
    )
    _store_encoder(
        BarcodeBERT,
        "barcode-bert-sample",
        vocab_size=1027,
        projection_dim=128,
        model_config_kwargs={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    )
    _store_encoder(
        TextEncoder,
        "bert-sample",
        model_name_or_path=BERT_SAMPLE,
        pretrained=False,
    )
    _store_text_head("text-head-sample", width=128)


def _photos_for(what: str) -> str:
    """Ask how photos are prepared for the encoder that is configured."""
    asked: str = II(f"photos:{what},${{oc.select:task.encoders.rgb,null}}")
    return asked


def _store_data() -> None:
    """Store each file as a dataset of any split, and as `data`: the splits of an experiment."""
    splits: dict[str, Any] = {"train": {"split": TRAINING_SPLIT}}
    places = ["train"]
    for stage, roles in EVALUATION_SPLITS.items():
        parts = {f"{role}_split": split for role, split in roles.items()}
        splits[stage] = {
            part: {"split": split, "for_training": False} for part, split in parts.items()
        }
        places += [f"{stage}.{part}" for part in parts]
    for name, variable, default in (
        ("BIOSCAN-1M", "BIOSCAN_1M_HDF5", "null"),
        ("BIOSCAN-5M", "BIOSCAN_5M_HDF5", "null"),
        ("BIOSCAN-sample", "BIOSCAN_SAMPLE_HDF5", "data/bioscan_sample.hdf5"),
    ):
        external_store(
            BIOSCANInsectDataset,
            group="datasets",
            name=name,
            path_to_hdf5_file=II(f"oc.env:{variable},{default}"),
            path_variable=variable,
            split=MISSING,
            tokenizer=builds(KmerTokenizer, populate_full_signature=True),
            image_size=_photos_for("image_size"),
            interpolation=_photos_for("interpolation"),
        )
        defaults = [*({f"/datasets@{place}": name} for place in places), "_self_"]
        external_store({"defaults": defaults} | splits, group="data", name=name, package="datasets")


def _store_samplers() -> None:
    external_store(WindowedSampler, group="dataloader/sampler")


def _store_tasks() -> None:
    base = builds(ContrastivePretraining, populate_full_signature=True)
    external_store(
        builds(
            BioscanPretraining,
            populate_full_signature=True,
            image_mean=_photos_for("mean"),
            image_std=_photos_for("std"),
            builds_bases=(base,),
        ),
        group="task",
        name="BioscanPretraining",
    )
    # Batches of all devices make one loss, as published.
    external_store(
        ContrastiveLoss, group="modules/losses", name="gathered-contrastive", gather_with_grad=True
    )
    external_store(ChunkedContrastiveLoss, group="modules/losses", name="chunked-contrastive")
    external_store(LabelAwareContrastiveLoss, group="modules/losses")
    external_store(HierarchicalContrastiveLoss, group="modules/losses")
    external_store(SigLIPLoss, group="modules/losses", name="siglip")
    external_store(TaxonomicClassification, group="eval_task", output_dir=_OUTPUT_DIR)
    external_store(
        OfflineFallbackWandbLogger,
        group="trainer/logger",
        name="OfflineFallbackWandbLogger",
        name_of_run=II("experiment_name"),
        save_dir=_OUTPUT_DIR,
        project=II("oc.env:WANDB_PROJECT,bioscan-clip"),
        tags=II("tags"),
        job_type=II("job_type"),
    )


def _run_folder() -> str:
    """Name a run by its time, in microseconds so that no two runs of an experiment share a folder.

    Processes that one `srun` starts would each have their own, and another one when SLURM puts
    their job back in the queue: these are named by their job and its step.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}"
    return f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}"


def _photos(what: str, encoder: DictConfig | None) -> Any:
    """Return a part of how photos are prepared for an encoder: ``${photos:mean,${...}}``."""
    chosen: Mapping[Any, Any] = encoder or {}
    found = photo_preprocessing(chosen.get("model_name"), chosen.get("model_kwargs"))[what]
    return OmegaConf.create(found) if isinstance(found, list) else found


def _register_barcode_bert() -> None:
    """Let configurations ask what the file BARCODEBERT says: ``${barcode_bert:stride}``."""
    OmegaConf.register_new_resolver(
        "barcode_bert",
        lambda what: getattr(tokenizer_of(os.environ["BARCODEBERT"]), what),
        replace=True,
    )


def _let_submitit_pickle_torch_backends() -> None:
    """Pickle ``torch.backends`` by name, like any other module.

    For ``--multirun``, submitit pickles mmlearn's main function, which uses that module; since
    PyTorch made it a subclass of a module, pickling it fails.
    """
    copyreg.pickle(type(torch.backends), lambda module: (import_module, (module.__name__,)))


OmegaConf.register_new_resolver("run_folder", _run_folder, use_cache=True, replace=True)
_let_submitit_pickle_torch_backends()
_register_barcode_bert()
OmegaConf.register_new_resolver("photos", _photos, replace=True)
_store_encoders()
_store_sample_encoders()
_store_data()
_store_samplers()
_store_tasks()
