"""Steps that take less time or memory, and give the same embeddings."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from timm.layers import PatchDropout
from torch import Tensor, nn

_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
HALF: Final = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What mixed precision computes in, by Lightning's name of it."""


def compile_encoder(encoder: nn.Module, **options: Any) -> None:
    """Compile an encoder for the shapes that it is given, each of them once.

    Parameters
    ----------
    encoder : torch.nn.Module
        Changed in place; names of its parameters stay. It is compiled when it is first used.
    **options
        Of :func:`torch.compile`.
    """
    _keep_compiled()
    encoder.compile(dynamic=False, fullgraph=True, **options)


def compile_function(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function that is compiled as an encoder is, by :func:`compile_encoder`."""
    _keep_compiled()
    return torch.compile(function, dynamic=False, fullgraph=True, **options)


def _keep_compiled() -> None:
    """Keep what is compiled for the next run, unless ``TORCHINDUCTOR_CACHE_DIR`` says where.

    PyTorch's own place for it is often gone with a job.
    """
    os.environ.setdefault(_CACHE, str(Path("~/.cache/bioscan_clip/compiled").expanduser()))


def copy_aside(copy: Callable[[], Any], device: torch.device) -> Any:
    """Copy a batch to a GPU while it computes what it was asked for before.

    Parameters
    ----------
    copy : callable
        Returns the batch, whose tensors were in pinned memory, on `device`.
    device : torch.device
        The GPU. What it is asked for from now on waits for the copy; the host does not.

    Returns
    -------
    any
        The batch.
    """
    computing, copying = torch.cuda.current_stream(device), _copying(device)
    with torch.cuda.stream(copying):
        batch = copy()
    computing.wait_stream(copying)
    # Else its memory could be used for the next copy before it is read.
    apply_to_collection(batch, Tensor, lambda tensor: tensor.record_stream(computing))
    return batch


@cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


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
        model.config.use_cache = False  # else transformers warns in each step
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()  # which only the reentrant kind needs
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
