"""Encoders of the three views; each maps a batch to one embedding per specimen.

Photos go through mmlearn's own ``TimmViT``, with the adapters of :func:`clibd_vit_lora`.
"""

from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT
from projects.bioscan_clip.encoders.lora import QueryValueLora, clibd_vit_lora
from projects.bioscan_clip.encoders.text import BERT_SAMPLE, TextEncoder
from projects.bioscan_clip.encoders.weights import PretrainedWeights, load_into, load_weights

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
