"""CLIBD's checkpoints: its names and preprocessing, turned into those of this project.

CLIBD (https://github.com/bioscan-ml/clibd) saves the state dict of its model alone. Its photos are
not normalised and its barcodes begin with token 0, not 1. Both become part of the weights: an
imported model takes the same input as any other here, and gives CLIBD's embeddings.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from projects.bioscan_clip.datasets.tokenizer import CLS_ID, MASK_ID, KmerTokenizer
from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD
from projects.bioscan_clip.encoders.configuration import FORMAT_VERSION, infer_bert_config

_PREFIXES: Final = {
    "rgb": "image_encoder.base_image_encoder.",
    "dna": "dna_encoder.base_dna_encoder.",
    "text": "language_encoder.base_language_encoder.",
}
# Until April 2025 the encoders had other names.
_OLDER: Final = {
    "lora_vit": "base_image_encoder",
    "lora_barcode_bert": "base_dna_encoder",
    "lora_bert": "base_language_encoder",
}
_HEAD: Final = "language_encoder.proj."
_UNUSED: Final = re.compile(r"\.position_ids$|^encoders\.text\.model\.pooler\.")
_FIRST_LOGIT_SCALE: Final = math.log(1 / 0.07)


def is_clibd(names: Mapping[str, Any]) -> bool:
    """Whether these are the names of a state dict of CLIBD."""
    roots = {name.removeprefix("module.").split(".")[0] for name in names}
    return bool(roots & {"image_encoder", "dna_encoder", "language_encoder", "open_clip_model"})


def import_clibd(
    state_dict: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Turn a state dict of CLIBD into a model of this project.

    Which encoders there are, their sizes, and which layers have adapters is read off the names and
    shapes. Adapters are merged, those too that CLIBD's full fine-tunes hold in their photo encoder.

    Parameters
    ----------
    state_dict : mapping of str to torch.Tensor
        Of the file.
    path : pathlib.Path
        The file, for messages and the record.

    Returns
    -------
    configuration : dict
        As :func:`~projects.bioscan_clip.encoders.configuration.describe_model` returns.
    state_dict : dict of str to torch.Tensor
        float32 weights by the names that checkpoints of this project give them.

    Raises
    ------
    ValueError
        If it is of a variant that cannot be built here.
    """
    given = {_rename(name): weight for name, weight in state_dict.items()}
    _refuse_other_variants(given, path)
    try:
        weights = _map_names(_merge_adapters(given))
        modalities = {
            name: _DESCRIPTIONS[name](weights)
            for name in _PREFIXES
            if any(weight.startswith(f"encoders.{name}.") for weight in weights)
        }
        if "rgb" in modalities:
            _fold_normalisation(weights)
        if "dna" in modalities:
            _swap_first_token(weights)
    except KeyError as error:
        raise ValueError(
            f"{path} is not whole, or of another version of CLIBD: it lacks {error}. Compare its "
            "size with the published one."
        ) from error
    adapted = any(name.endswith(".w_a.weight") for name in given)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    configuration = {
        "format_version": FORMAT_VERSION,
        "version": version("bioscan-clip"),
        "experiment": "CLIBD",
        "seed": None,
        "origin": {
            "project": "https://github.com/bioscan-ml/clibd",
            "file": path.name,
            "sha256": digest,
            "tuned": "LoRA" if adapted else "all weights",
        },
        "modalities": modalities,
    }
    return configuration, {name: weight.float().contiguous() for name, weight in weights.items()}


def _rename(name: str) -> str:
    parts = name.removeprefix("module.").split(".")
    return ".".join(_OLDER.get(part, part) for part in parts)


def _refuse_other_variants(given: Mapping[str, Tensor], path: Path) -> None:
    if any(name.startswith("open_clip_model.") for name in given):
        raise ValueError(
            f"{path} is a model of CLIBD on top of OpenCLIP, which is not supported; its models "
            "with a ViT of timm are."
        )
    foreign = next(
        (n for n in given if not n.startswith((*_PREFIXES.values(), _HEAD)) and n != "logit_scale"),
        None,
    )
    if foreign is not None:
        raise ValueError(
            f"{path} is a variant of CLIBD's models that is not supported: it has {foreign}. Those "
            "with a ViT, BarcodeBERT and BERT-small are."
        )
    words = given.get(_PREFIXES["dna"] + "bert.embeddings.word_embeddings.weight")
    if words is not None and len(words) != KmerTokenizer().vocab_size:
        raise ValueError(
            f"{path} has a barcode encoder of {len(words):,} tokens, which is not supported: only "
            f"BarcodeBERT's over 5-mers, of {KmerTokenizer().vocab_size:,}, is."
        )


def _merge_adapters(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add low-rank updates, which are not scaled, to the layers below them, in float64."""
    merged = {}
    for name, weight in given.items():
        layer, _, kind = name.rpartition(".")
        if re.search(r"\.(linear_[ab]_[qv]|w_[ab])$", layer):
            continue
        if layer.endswith(".qkv.qkv"):
            layer = layer.removesuffix(".qkv")
            if kind == "weight":
                weight = weight.double().clone()
                width = weight.shape[1]
                for part, rows in (("q", slice(0, width)), ("v", slice(-width, None))):
                    down = given[f"{layer}.linear_a_{part}.weight"].double()
                    weight[rows] += given[f"{layer}.linear_b_{part}.weight"].double() @ down
        elif layer.endswith(".w"):
            layer = layer.removesuffix(".w")
            if kind == "weight":
                down = given[f"{layer}.w_a.weight"].double()
                weight = weight.double() + given[f"{layer}.w_b.weight"].double() @ down
        merged[f"{layer}.{kind}" if layer else kind] = weight
    return merged


def _map_names(merged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {"log_logit_scale": merged.get("logit_scale", torch.tensor(_FIRST_LOGIT_SCALE))}
    for name, weight in merged.items():
        for modality, prefix in _PREFIXES.items():
            if name.startswith(prefix):
                weights[f"encoders.{modality}.model.{name.removeprefix(prefix)}"] = weight
        if name.startswith(_HEAD):
            weights[f"heads.text.0.{name.removeprefix(_HEAD)}"] = weight
    return {name: weight for name, weight in weights.items() if not _UNUSED.search(name)}


def _fold_normalisation(weights: dict[str, Tensor]) -> None:
    """Let the patch embedding take photos that are normalised by CLIP's mean and deviation.

    With z = (x - m) / s, W x + b = (s W) z + (b + W m); patches do not overlap and are not padded.
    """
    name = "encoders.rgb.model.patch_embed.proj."
    weight = weights[name + "weight"].double()
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (CLIP_MEAN, CLIP_STD))
    weights[name + "weight"] = weight * std[:, None, None]
    weights[name + "bias"] = weights[name + "bias"].double() + weight.sum(dim=(2, 3)) @ mean


def _swap_first_token(weights: dict[str, Tensor]) -> None:
    """Let barcodes begin with token 1, where CLIBD has 0; no barcode has the other one."""
    name = "encoders.dna.model.bert.embeddings.word_embeddings.weight"
    swapped = weights[name].clone()
    swapped[[MASK_ID, CLS_ID]] = swapped[[CLS_ID, MASK_ID]]
    weights[name] = swapped


def _describe_photos(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    shape = {
        name.removeprefix("encoders.rgb.model."): tuple(weight.shape)
        for name, weight in weights.items()
        if name.startswith("encoders.rgb.")
    }
    width, _, patch, _ = shape["patch_embed.proj.weight"]
    grid = math.isqrt(shape["pos_embed"][1] - 1)
    sizes = {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": len({name.split(".")[1] for name in shape if name.startswith("blocks.")}),
        "num_heads": max(1, width // 64),
    }
    return {
        "encoder": {
            "_target_": "mmlearn.modules.encoders.TimmViT",
            "model_name": "vit_base_patch16_224",
            "projection_dim": shape["head.weight"][0],
            "model_kwargs": sizes,
        },
        "lora": None,
        "head": None,
        "preprocessing": {
            "image_size": grid * patch,
            "mean": list(CLIP_MEAN),
            "std": list(CLIP_STD),
        },
    }


def _describe_barcodes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "encoder": {
            "_target_": "projects.bioscan_clip.encoders.BarcodeBERT",
            "projection_dim": len(weights["encoders.dna.model.cls.predictions.decoder.weight"]),
            "pooling": "softmax_mean",
            "config": infer_bert_config(weights, "dna"),
        },
        "lora": None,
        "head": None,
        "tokenizer": {"k": 5, "stride": 5, "max_length": 660},
    }


def _describe_names(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    out_dim, in_dim = weights["heads.text.0.weight"].shape
    return {
        "encoder": {
            "_target_": "projects.bioscan_clip.encoders.TextEncoder",
            "pooling": "mean",
            "config": {"model_type": "bert", **infer_bert_config(weights, "text")},
        },
        "lora": None,
        "head": {"_target_": "mmlearn.modules.layers.MLP", "in_dim": in_dim, "out_dim": out_dim},
        "tokenizer": {"name": "prajjwal1/bert-small"},
    }


_DESCRIPTIONS: Final[Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]]] = {
    "rgb": _describe_photos,
    "dna": _describe_barcodes,
    "text": _describe_names,
}
