"""Weights that training does not change: left out of a file, and filled in again by their hash."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

BASE_KEY: Final = "pretrained_weights"
"""In a checkpoint without frozen weights: their hash for each encoder."""

# PEFT keeps, beside a layer that is trained in full, how that layer was. A new head was random.
_REPLACED_LAYER: Final = ".original_module."


def leave_out_frozen(
    checkpoint: dict[str, Any], model: nn.Module, hashes: dict[str, str] | None = None
) -> dict[str, str]:
    """Take the weights that training does not change out of a checkpoint.

    What is left are adapters, heads and all else that is trained, and buffers. What is left out is
    noted by a hash.

    Parameters
    ----------
    checkpoint : dict
        Changed in place: its ``state_dict``, and a new entry :data:`BASE_KEY`.
    model : torch.nn.Module
        The model that is being trained.
    hashes : dict of str to str, optional
        What an earlier call returned, since hashing takes seconds.

    Returns
    -------
    dict of str to str
        From :func:`hash_weights`, of what is left out.
    """
    frozen = {
        name: weight
        for name, weight in model.state_dict(keep_vars=True).items()
        if isinstance(weight, nn.Parameter)
        and not weight.requires_grad
        and _REPLACED_LAYER not in name
    }
    checkpoint["state_dict"] = {
        name: weight for name, weight in checkpoint["state_dict"].items() if name not in frozen
    }
    checkpoint[BASE_KEY] = hashes or hash_weights(frozen)
    return dict(checkpoint[BASE_KEY])


def fill_in_frozen(checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Complete a checkpoint by the weights that it was saved without.

    Parameters
    ----------
    checkpoint : dict
        From :func:`leave_out_frozen`; its ``state_dict`` becomes that of a full checkpoint. Any
        other is left as it is.
    model : torch.nn.Module
        The same model, on top of the same pretrained weights.

    Raises
    ------
    ValueError
        If the model's other weights are not those it was trained on top of.
    """
    if BASE_KEY not in checkpoint:
        return
    state_dict = checkpoint["state_dict"]
    base = {name: w for name, w in model.state_dict().items() if name not in state_dict}
    found, expected = hash_weights(base), checkpoint[BASE_KEY]
    differing = [part for part in {**expected, **found} if found.get(part) != expected.get(part)]
    if differing:
        raise ValueError(
            "The checkpoint holds only what was trained (save_trainable_only), and the pretrained "
            f"weights it was trained on top of are not those of this model's "
            f"{', '.join(differing)}: use the same BARCODEBERT_5MER, model names, `pretrained=` "
            "and `frozen_in_half=` as in its training, and the same seed where an encoder started "
            "from random weights."
        )
    checkpoint["state_dict"] = {**base, **state_dict}


def hash_weights(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Hash weights, part by part; about a second per gigabyte.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        By name, such as ``encoders.rgb.model.norm.weight``.

    Returns
    -------
    dict of str to str
        For each part, such as ``encoders.rgb``, 32 hexadecimal digits that depend on the names,
        types, shapes and bytes of its weights.
    """
    hashes: dict[str, Any] = defaultdict(lambda: hashlib.blake2b(digest_size=16))
    for name, weight in sorted(weights.items()):
        part = ".".join(name.split(".")[:2])
        values = weight.detach().cpu().contiguous()
        hashes[part].update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        hashes[part].update(values.flatten().view(torch.uint8).numpy())
    return {part: value.hexdigest() for part, value in hashes.items()}
