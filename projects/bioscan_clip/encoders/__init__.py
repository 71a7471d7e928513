"""Encoders of the three views; each maps a batch to one embedding per specimen.

Photos go through mmlearn's own ``TimmViT``, with the adapters of :func:`clibd_vit_lora`, or through
a :class:`PhotoEncoder` of another name.

Names are imported when they are asked for: PEFT, which adapters need, takes a second to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "barcode_bert": ["BarcodeBERT"],
        "lora": ["QueryValueLora", "clibd_vit_lora", "fuse_adapters"],
        "photo": ["PhotoEncoder", "photo_preprocessing"],
        "text": ["BERT_SAMPLE", "TextEncoder"],
        "weights": ["PretrainedWeights", "load_into", "load_weights"],
    },
)
