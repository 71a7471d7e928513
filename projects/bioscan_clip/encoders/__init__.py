"""Encoders of the three views; each maps a batch to one embedding per specimen.

Photos go through mmlearn's own ``TimmViT``, with the adapters of :func:`clibd_vit_lora`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT
    from projects.bioscan_clip.encoders.lora import QueryValueLora, clibd_vit_lora
    from projects.bioscan_clip.encoders.text import BERT_SAMPLE, TextEncoder
    from projects.bioscan_clip.encoders.weights import (
        PretrainedWeights,
        load_into,
        load_weights,
    )

__all__ = [
    "BERT_SAMPLE",
    "BarcodeBERT",
    "PretrainedWeights",
    "QueryValueLora",
    "TextEncoder",
    "clibd_vit_lora",
    "load_into",
    "load_weights",
]

_HOMES = {
    "BERT_SAMPLE": "text",
    "BarcodeBERT": "barcode_bert",
    "PretrainedWeights": "weights",
    "QueryValueLora": "lora",
    "TextEncoder": "text",
    "clibd_vit_lora": "lora",
    "load_into": "weights",
    "load_weights": "weights",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: PEFT, which adapters need, takes a second to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
