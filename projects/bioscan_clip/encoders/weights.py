"""Pretrained weights: read from a file without running its code, and loaded without surprises."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import PeftConfig

_FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WRAPPERS = re.compile(r"^(?:(?:module|model)\.)+")


@dataclass(frozen=True)
class PretrainedWeights:
    """What a weights file holds.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    state_dict : dict of str to torch.Tensor
        Tensors on the CPU; names without ``module.`` and ``model.`` in front.
    config : dict, optional
        Arguments of :class:`transformers.BertConfig`, if the file says which model it is for.
    training : mapping
        Options that it was trained with, if the file says so, such as ``k_mer`` and ``stride``.
    """

    path: Path
    state_dict: dict[str, Tensor]
    config: dict[str, Any] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)


def load_weights(path: str | Path, remedy: str = "") -> PretrainedWeights:
    """Read pretrained weights.

    Three layouts are understood: a plain state dict, such as BarcodeBERT's published
    ``model_41.pth``; what BarcodeBERT's newer training code [1]_ saves, a dictionary that holds the
    state dict under ``model``, the model's sizes under ``bert_config`` and its command line under
    ``config``; and a folder of the Hugging Face Hub.

    Parameters
    ----------
    path : str or pathlib.Path
        A ``.safetensors`` file, or one written by :func:`torch.save` under any other name; or a
        folder with ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``.
    remedy : str, default=""
        Sentence added to the error if there is no such file: where to get it.

    Returns
    -------
    PretrainedWeights
        The tensors and, for the newer layout, the model's sizes.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not hold weights, or holds Python objects besides.

    References
    ----------
    .. [1] https://github.com/Kari-Genomics-Lab/BarcodeBERT, ``barcodebert/pretraining.py``
    """
    path = Path(path).expanduser()
    config, training = None, {}
    if path.is_dir():
        config = _folder_config(path)
        training = config
        path = next((path / name for name in _FOLDER_WEIGHTS if (path / name).is_file()), path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}. {remedy}".rstrip())
    content = _read(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        config = content.get("bert_config")
        options = content.get("config")
        training = vars(options) if isinstance(options, argparse.Namespace) else {}
        content = content["model"]
    if not _is_state_dict(content):
        raise ValueError(f"{path} holds no weights: expected a dictionary of tensors by name.")
    state_dict = {_WRAPPERS.sub("", name): tensor for name, tensor in content.items()}
    if len(state_dict) < len(content):
        raise ValueError(
            f"{path} holds the same weights twice, with and without `module.` or `model.` in front "
            "of their names; save one model's state dict alone."
        )
    return PretrainedWeights(path, state_dict, config, training)


def load_into(
    model: nn.Module,
    weights: PretrainedWeights,
    *,
    ignore_missing: Sequence[str] = (),
    ignore_unexpected: Sequence[str] = (),
) -> list[str]:
    """Load weights into a model; whatever does not fit is an error.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    weights : PretrainedWeights
        What to load.
    ignore_missing : sequence of str
        Shell-style patterns of names that may keep their present values.
    ignore_unexpected : sequence of str
        Patterns of names in the file that are never loaded.

    Returns
    -------
    list of str
        Names of the model's parameters and buffers that kept their present values.

    Raises
    ------
    ValueError
        If other names are missing or unexpected, or shapes differ; the message lists all of them.
    """
    wanted = model.state_dict()
    given = {
        name: tensor
        for name, tensor in weights.state_dict.items()
        if not _matches(name, ignore_unexpected)
    }
    kept = [name for name in wanted if name not in given]
    problems = {
        "missing": [name for name in kept if not _matches(name, ignore_missing)],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            for name, tensor in given.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        listed = "".join(
            f"\n  {kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise ValueError(
            f"{weights.path} does not fit this {type(model).__name__}; compare the sizes the model "
            f"was configured with.{listed}"
        )
    model.load_state_dict(given, strict=False)
    return kept


def with_adapters(model: nn.Module, peft_config: "PeftConfig | None") -> Any:
    """Return a model with adapters; the model itself without a configuration of them."""
    if peft_config is None:
        return model
    from peft import get_peft_model  # takes a second to import

    return get_peft_model(model, peft_config)


@contextmanager
def unreadable_as(message: str) -> Iterator[None]:
    """Turn whatever a damaged or unsafe pickle raises into a ValueError; OSError stays."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # what else a pickle raises cannot be foreseen
        raise ValueError(message) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training's checkpoint without running code of its own.

    mmlearn's own checkpoints hold, beside the weights, objects of classes such as its optimizer's.
    Whatever is neither a tensor nor a plain value is read as an inert stand-in.

    Parameters
    ----------
    path : str or pathlib.Path
        A file that Lightning wrote.

    Returns
    -------
    dict
        What Lightning collected: ``state_dict``, on the CPU, and all else. Of a file that holds
        weights alone, only ``state_dict``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, no checkpoint, or holds what PyTorch never reads safely.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    with unreadable_as(
        f"{path} cannot be read as a checkpoint: it is damaged, no checkpoint, or would run "
        "code when it is read. Compare its size with the original's, or take another one."
    ):
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(_Inert, name) for name in others]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if _is_state_dict(content):
        return {"state_dict": content}
    if not isinstance(content, dict) or not _is_state_dict(content.get("state_dict")):
        raise ValueError(
            f"{path} is no checkpoint of a training: expected a dictionary with `state_dict`."
        )
    return content


class _Inert:
    """Stands in for an object of any class; takes what it was made of and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _folder_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} holds no config.json.") from error
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged: {error}.") from error
    return config


def _read(path: Path) -> Any:
    with unreadable_as(
        f"{path} cannot be read as weights. If it was downloaded, compare its size with the "
        "published one; if it holds Python objects besides tensors, save the state dict alone, "
        "since loading such objects could run foreign code."
    ):
        if path.suffix == ".safetensors":
            return load_file(path)
        # BarcodeBERT's newer files carry their command line, a Namespace of plain values, along.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) for name in content)
        and all(isinstance(tensor, Tensor) for tensor in content.values())
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
