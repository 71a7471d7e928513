"""What users type: Hydra config groups of this project.

Hydra imports this package when it is on its search path (``hydra_plugins.bioscan_clip`` puts it
there), which adds the entries below to its config store; the YAML files beside it name them.
"""

import copyreg
from importlib import import_module
from typing import Any, Final

import torch
from hydra_zen import builds
from mmlearn.conf import external_store
from mmlearn.modules.encoders import TimmViT
from mmlearn.modules.layers import MLP
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks import ContrastivePretraining
from omegaconf import II, MISSING
from peft import LoraConfig

from projects.bioscan_clip.datasets.loader import WindowedSampler
from projects.bioscan_clip.datasets.schema import EVALUATION_SPLITS, TRAINING_SPLIT
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders import BERT_SAMPLE, BarcodeBERT, TextEncoder
from projects.bioscan_clip.tasks import (
    BioscanPretraining,
    ChunkedContrastiveLoss,
    LabelAwareContrastiveLoss,
    TaxonomicClassification,
)
from projects.bioscan_clip.tasks.loggers import OfflineFallbackWandbLogger

_SAMPLE_IMAGE_SIZE: Final = 80
_OUTPUT_DIR: Final = II("hydra:runtime.output_dir")


def _lora(target_modules: list[str], modules_to_save: list[str] | None = None) -> Any:
    """Describe LoRA at rank 4 and PEFT's default alpha; the group `lora` refines it."""
    return builds(
        LoraConfig,
        r=4,
        lora_alpha=8,
        target_modules=target_modules,
        modules_to_save=modules_to_save,
    )


def _store_encoders() -> None:
    # `hydra_convert="object"`: the encoders expect a real PeftConfig and real dictionaries.
    external_store(
        TimmViT,
        group="modules/encoders",
        name="timm-vit-lora",
        model_name="vit_base_patch16_224",
        projection_dim=768,
        peft_config=_lora(["qkv"], modules_to_save=["head"]),
        hydra_convert="object",
    )
    external_store(
        BarcodeBERT,
        group="modules/encoders",
        name="barcode-bert-lora",
        vocab_size=1027,
        projection_dim=768,
        # Null would mean to train from scratch, which must not happen by an unset variable.
        pretrained_checkpoint_path=II("oc.env:BARCODEBERT_5MER,'<BARCODEBERT_5MER is not set>'"),
        peft_config=_lora(["query", "value"], modules_to_save=["decoder"]),
        hydra_convert="object",
    )
    external_store(
        TextEncoder,
        group="modules/encoders",
        name="bert-small-lora",
        model_name_or_path="prajjwal1/bert-small",
        peft_config=_lora(["query", "value"]),
        hydra_convert="object",
    )
    external_store(
        MLP,
        group="modules/layers",
        name="text-head",
        in_dim=512,  # width of BERT-small
        out_dim=II("task.encoders.rgb.projection_dim"),
    )


def _store_sample_encoders() -> None:
    """Store encoders that learn the sample from scratch in minutes on two CPU cores."""
    external_store(
        TimmViT,
        group="modules/encoders",
        name="vit-sample",
        model_name="vit_tiny_r_s16_p8_224",
        projection_dim=128,
        pretrained=False,
        # A convolutional stem learns from few photos; see BIOSCAN-sample for their size.
        model_kwargs={
            "img_size": _SAMPLE_IMAGE_SIZE,
            "patch_size": 4,
            "embed_dim": 128,
            "depth": 3,
            "num_heads": 4,
        },
        peft_config=_lora(["qkv"], modules_to_save=["head"]),
        hydra_convert="object",
    )
    external_store(
        BarcodeBERT,
        group="modules/encoders",
        name="barcode-bert-sample",
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
        peft_config=_lora(["query", "value"], modules_to_save=["decoder"]),
        hydra_convert="object",
    )
    external_store(
        TextEncoder,
        group="modules/encoders",
        name="bert-sample",
        model_name_or_path=BERT_SAMPLE,
        pretrained=False,
        peft_config=_lora(["query", "value"]),
        hydra_convert="object",
    )
    external_store(
        MLP,
        group="modules/layers",
        name="text-head-sample",
        in_dim=128,
        out_dim=II("task.encoders.rgb.projection_dim"),
    )


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
    for name, variable, default, image_size in (
        ("BIOSCAN-1M", "BIOSCAN_1M_HDF5", "null", 224),
        ("BIOSCAN-5M", "BIOSCAN_5M_HDF5", "null", 224),
        ("BIOSCAN-sample", "BIOSCAN_SAMPLE_HDF5", "data/bioscan_sample.hdf5", _SAMPLE_IMAGE_SIZE),
    ):
        external_store(
            BIOSCANInsectDataset,
            group="datasets",
            name=name,
            path_to_hdf5_file=II(f"oc.env:{variable},{default}"),
            path_variable=variable,
            split=MISSING,
            tokenizer=builds(KmerTokenizer, populate_full_signature=True),
            image_size=image_size,
        )
        defaults = [*({f"/datasets@{place}": name} for place in places), "_self_"]
        external_store({"defaults": defaults} | splits, group="data", name=name, package="datasets")


def _store_samplers() -> None:
    external_store(WindowedSampler, group="dataloader/sampler")


def _store_tasks() -> None:
    base = builds(ContrastivePretraining, populate_full_signature=True)
    external_store(
        builds(BioscanPretraining, populate_full_signature=True, builds_bases=(base,)),
        group="task",
        name="BioscanPretraining",
    )
    # Batches of all devices make one loss, as published.
    external_store(
        ContrastiveLoss, group="modules/losses", name="gathered-contrastive", gather_with_grad=True
    )
    external_store(ChunkedContrastiveLoss, group="modules/losses", name="chunked-contrastive")
    external_store(LabelAwareContrastiveLoss, group="modules/losses")
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


def _let_submitit_pickle_torch_backends() -> None:
    """Pickle ``torch.backends`` by name, like any other module.

    For ``--multirun``, submitit pickles mmlearn's main function, which uses that module; since
    PyTorch made it a subclass of a module, pickling it fails.
    """
    copyreg.pickle(type(torch.backends), lambda module: (import_module, (module.__name__,)))


_let_submitit_pickle_torch_backends()
_store_encoders()
_store_sample_encoders()
_store_data()
_store_samplers()
_store_tasks()
