"""Encoders that take less time or memory, and give the same embeddings: options of a training."""

import os
from pathlib import Path
from typing import Any, Final

import torch
from timm.layers import PatchDropout
from torch import nn

_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
HALF: Final = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What mixed precision computes in, by Lightning's name of it."""


def compile_encoder(encoder: nn.Module, **options: Any) -> None:
    """Compile an encoder for the shapes that it is given, each of them once.

    What is compiled stays in ``~/.cache/bioscan_clip``, or where ``TORCHINDUCTOR_CACHE_DIR`` says,
    for the next run. PyTorch's own place for it is often gone with a job.

    Parameters
    ----------
    encoder : torch.nn.Module
        Changed in place; names of its parameters stay. It is compiled when it is first used.
    **options
        Of :func:`torch.compile`.
    """
    os.environ.setdefault(_CACHE, str(Path("~/.cache/bioscan_clip/compiled").expanduser()))
    encoder.compile(dynamic=False, fullgraph=True, **options)


def halve_frozen(model: nn.Module, precision: str) -> None:
    """Keep frozen weights of linear layers and convolutions in half precision.

    Mixed precision casts them each time that they are used. Here they are cast once, to the same
    values, so that embeddings are the same to the last bit.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    precision : str
        Lightning's name of the precision of training.

    Raises
    ------
    ValueError
        If that is not mixed, so that nothing would cast the layers' input.
    """
    if precision not in HALF:
        raise ValueError(
            f"`frozen_in_half` needs trainer.precision=bf16-mixed or 16-mixed, not {precision}."
        )
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for weight in layer.parameters(recurse=False):
                if not weight.requires_grad:
                    weight.data = weight.data.to(HALF[precision])


def checkpoint_activations(encoder: nn.Module) -> None:
    """Let a transformer keep only what each layer is given, and compute the rest once more.

    Parameters
    ----------
    encoder : torch.nn.Module
        With a ``model`` of timm or transformers; changed in place.

    Raises
    ------
    ValueError
        If it is neither.
    """
    model: Any = getattr(encoder, "model", None)
    if hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing()
    elif hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        raise ValueError(
            f"`checkpoint_activations` is for transformers of timm and transformers, but "
            f"{type(encoder).__name__} holds none."
        )


def keep_all_patches(model: nn.Module) -> None:
    """Let vision transformers see whole photos from now on, whatever their ``patch_drop_rate``."""
    for layer in model.modules():
        if isinstance(layer, PatchDropout):
            layer.prob = 0.0
