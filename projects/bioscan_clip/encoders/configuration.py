"""What a checkpoint says of its model: how to build the encoders and to prepare their input."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    IDENTIFIERS,
    IMAGE,
    IMAGE_LENGTH,
    RANKS,
    UNKNOWN_NAMES,
)
from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD, decode_photo

CONFIGURATION_KEY: Final = "bioscan_clip"
"""Where a checkpoint holds it."""

FORMAT_VERSION: Final = 1
SAMPLE_TOKENIZER: Final = "bert-sample"
"""The tokenizer of the sample's invented names, which is part of this package."""

MODALITIES: Final = ("rgb", "dna", "text")

_REFERENCE_BARCODES: Final = 500
_REFERENCE_PHOTOS: Final = 50
_ORDERS: Final = 5
_DATA_SETS: Final = {
    "BIOSCAN_1M_HDF5": "BIOSCAN-1M",
    "BIOSCAN_5M_HDF5": "BIOSCAN-5M",
    "BIOSCAN_SAMPLE_HDF5": "BIOSCAN-sample",
}
# What an encoder is; its other arguments say where first weights are from and what is trained.
_ARGUMENTS: Final = ("_target_", "model_name", "projection_dim", "model_kwargs", "pooling")
_OF_BERT: Final = re.compile(r"(embeddings|encoder\.layer)\..+")
_NOT_OF_THE_MODEL: Final = ("transformers_version", "_name_or_path", "dtype", "use_cache")


def describe_model(
    config: Mapping[str, Any], bert_configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Describe the model of a training, in plain values.

    Parameters
    ----------
    config : mapping
        Of the composed configuration, resolved: ``encoders`` and ``heads`` of the task, ``dataset``
        that it is trained on, and ``image_mean``, ``image_std``, ``experiment`` and ``seed`` if
        known.
    bert_configs : mapping of str to mapping
        Arguments of :class:`transformers.BertConfig`, or of another text model's configuration, for
        ``dna`` and ``text``.

    Returns
    -------
    dict
        ``format_version``, ``version`` of this project, ``experiment``, ``seed``, and for each of
        the ``modalities``: ``encoder`` with its class and arguments, ``lora`` and ``head`` or None,
        whether it was ``pretrained``, and ``preprocessing`` of photos or ``tokenizer`` of texts.
    """
    heads = config.get("heads") or {}
    modalities = {}
    for name in MODALITIES:
        encoder = config["encoders"].get(name)
        if encoder is None:
            continue
        modalities[name] = {
            "encoder": {key: encoder[key] for key in _ARGUMENTS if key in encoder}
            | ({"config": _of_the_model(bert_configs[name])} if name in bert_configs else {}),
            "lora": _plain(encoder.get("peft_config")),
            "head": _plain(heads.get(name)),
            "pretrained": bool(
                encoder.get("pretrained_checkpoint_path")
                if name == "dna"
                else encoder.get("pretrained", True)
            ),
        } | _preparation(name, encoder, config)
    return {
        "format_version": FORMAT_VERSION,
        "version": version("bioscan-clip"),
        "experiment": config.get("experiment"),
        "seed": config.get("seed"),
        "modalities": modalities,
    }


def check_format(configuration: Mapping[str, Any], where: str | Path) -> None:
    """Refuse the configuration of a model that this version cannot read.

    Parameters
    ----------
    configuration : mapping
        From :func:`describe_model`, perhaps of another version.
    where : str or pathlib.Path
        The file it is from, for the message.

    Raises
    ------
    ValueError
        If a newer version wrote it.
    """
    found = configuration.get("format_version")
    if found != FORMAT_VERSION:
        raise ValueError(
            f"{where} was written by bioscan-clip {configuration.get('version')} in format "
            f"{found}, but this version reads format {FORMAT_VERSION}: update bioscan-clip."
        )


def infer_bert_config(
    state_dict: Mapping[str, Tensor], modality: str, stated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Infer the sizes of a BERT from its weights.

    Parameters
    ----------
    state_dict : mapping of str to torch.Tensor
        Of the checkpoint.
    modality : str
        ``dna`` or ``text``.
    stated : mapping, optional
        What is known besides; it wins. Weights do not tell the number of heads, which are taken to
        be 64 wide.

    Returns
    -------
    dict
        Arguments of :class:`transformers.BertConfig`.
    """
    shapes = {
        found[0]: tuple(weight.shape)
        for name, weight in state_dict.items()
        if name.startswith(f"encoders.{modality}.")
        and (found := _OF_BERT.search(name.replace(".base_layer.", ".")))
    }
    vocabulary, hidden = shapes["embeddings.word_embeddings.weight"]
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layer.")}
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // 64),
        "intermediate_size": shapes["encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": shapes["embeddings.position_embeddings.weight"][0],
        "type_vocab_size": shapes["embeddings.token_type_embeddings.weight"][0],
    } | dict(stated or {})


def tokenizer_name(model_name_or_path: str) -> str:
    """Return what a text model's tokenizer is called, wherever this package is installed."""
    folder = Path(model_name_or_path)
    is_sample = folder.parts[-2:] == ("encoders", SAMPLE_TOKENIZER)
    return SAMPLE_TOKENIZER if is_sample else model_name_or_path


def learn_from_data(description: dict[str, Any], dataset: Mapping[str, Any]) -> None:
    """Add to a description what its training split tells.

    These are ``reference_barcodes``, some of the split's, by which others are placed;
    ``crop_margin``, how much room its photos leave around specimens, where the file holds any; and
    ``data``: which specimens they are, how many, and of which taxa.

    Parameters
    ----------
    description : mapping
        From :func:`describe_model`; changed in place.
    dataset : mapping
        Arguments of :class:`~projects.bioscan_clip.datasets.BIOSCANInsectDataset`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, lacks the split, or a column of it lies in another file.
    """
    from projects.bioscan_clip.datasets.cropping import measure_margin
    from projects.bioscan_clip.datasets.hdf5 import (  # pandas takes its time to import
        damage_named,
        open_file,
        own_member,
    )

    modalities, path = description["modalities"], Path(dataset["path_to_hdf5_file"])
    with damage_named(path), open_file(path) as file:
        split = own_member(file, dataset["split"])
        ids = own_member(split, IDENTIFIERS[0])[:].tolist() if IDENTIFIERS[0] in split else []
        names = {rank: _classified(own_member(split, rank)[:]) for rank in RANKS}
        orders = Counter(names[RANKS[0]]).most_common(_ORDERS)
        description["data"] = {
            "name": _DATA_SETS.get(dataset.get("path_variable") or "", path.stem),
            "file": path.name,
            "file_size": path.stat().st_size,
            "split": dataset["split"],
            "specimens": len(split[RANKS[0]]),
            "sha256": hashlib.sha256(b"\n".join(ids)).hexdigest() if ids else None,
            "taxa": {rank: len(set(each)) for rank, each in names.items()},
            "orders": {name: round(count / len(split[RANKS[0]]), 4) for name, count in orders},
        }
        if "dna" in modalities and BARCODE in split:
            column = own_member(split, BARCODE)
            rows = _spread(len(column), _REFERENCE_BARCODES)
            barcodes = [column[row].decode("ascii", "replace") for row in rows]
            modalities["dna"]["reference_barcodes"] = [text for text in barcodes if text.strip("N")]
        if "rgb" in modalities and IMAGE in split:
            images, lengths = (own_member(split, name) for name in (IMAGE, IMAGE_LENGTH))
            rows = _spread(len(images), _REFERENCE_PHOTOS)
            margin = measure_margin(_decodable(images[row][: lengths[row]] for row in rows))
            modalities["rgb"]["crop_margin"] = round(margin, 3)


def _decodable(photos: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Tensor]:
    """Decode photos, without those that training skips."""
    for photo in photos:
        with suppress(ValueError):
            yield decode_photo(photo)


def _classified(names: npt.NDArray[np.bytes_]) -> list[str]:
    return [name.decode() for name in names.tolist() if name not in UNKNOWN_NAMES]


def _spread(length: int, count: int) -> list[int]:
    """Return rows evenly spread over a split."""
    rows: list[int] = np.unique(np.linspace(0, length - 1, count).astype(np.int64)).tolist()
    return rows


def _preparation(
    modality: str, encoder: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how the input of a modality is prepared."""
    if modality == "rgb":
        return {
            "preprocessing": {
                "image_size": config["dataset"].get("image_size", 224),
                "mean": list(config.get("image_mean") or CLIP_MEAN),
                "std": list(config.get("image_std") or CLIP_STD),
                "interpolation": config["dataset"].get("interpolation", "bilinear"),
            }
        }
    if modality == "dna":
        tokenizer = config["dataset"].get("tokenizer") or {}
        told = {
            name: tokenizer.get(name, default)
            for name, default in (("k", 5), ("stride", 5), ("max_length", 660))
        }
        without_cls = {} if tokenizer.get("cls_token", True) else {"cls_token": False}
        return {"tokenizer": told | without_cls}
    return {"tokenizer": {"name": tokenizer_name(encoder["model_name_or_path"])}}


def _of_the_model(bert_config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in bert_config.items() if name not in _NOT_OF_THE_MODEL}


def _plain(node: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a node of the configuration without what is not set."""
    return None if node is None else {k: v for k, v in node.items() if v is not None}
