"""Encoders and heads, built from what a model's configuration says of them.

No code that a file names is run: encoders are those of the list below. mmlearn and Lightning are
not imported, which would take longer than all else.
"""

import os
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from projects.bioscan_clip.encoders.weights import with_adapters

if TYPE_CHECKING:
    from peft import PeftConfig


class Network(nn.Module):
    """The encoders and heads of a model, with the state-dict names of checkpoints.

    Parameters
    ----------
    modalities : mapping of str to mapping
        ``encoder``, ``lora`` and ``head`` of each modality; see
        :func:`~projects.bioscan_clip.encoders.configuration.describe_model`.
    pretrained : bool, default=False
        Whether encoders start from the pretrained weights that training starts from, below adapters
        that are still to be loaded, or from random ones.

    Raises
    ------
    ValueError
        If an encoder or a head is none that can be built here.
    FileNotFoundError, OSError
        If pretrained weights cannot be found.
    """

    def __init__(
        self, modalities: Mapping[str, Mapping[str, Any]], pretrained: bool = False
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):  # first weights, which are replaced, draw from it
            for name, part in modalities.items():
                self.encoders[name] = build_encoder(part, pretrained)
                if part["head"] is not None:
                    self.heads[name] = build_head(part["head"])

    def forward(self, modality: str, inputs: dict[str, Tensor]) -> Tensor:
        """Embed a batch of one modality: float32, shape ``(B, D)``, not yet of unit length."""
        embeddings: Tensor = self.encoders[modality](inputs).last_hidden_state
        if modality in self.heads:
            embeddings = self.heads[modality](embeddings)
        return embeddings


class TimmPhotoEncoder(nn.Module):
    """A vision transformer of timm with a linear projection, as mmlearn's ``TimmViT``.

    Parameters
    ----------
    model_name : str
        Its name in timm.
    projection_dim : int
        Length of the embedding.
    model_kwargs : mapping, optional
        Further arguments of :func:`timm.create_model`.
    peft_config : peft.PeftConfig, optional
        The adapters it was trained with.
    pretrained : bool, default=False
        Whether it starts from timm's weights.
    """

    def __init__(
        self,
        model_name: str,
        projection_dim: int,
        model_kwargs: Mapping[str, Any] | None = None,
        peft_config: "PeftConfig | None" = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        import timm

        model = timm.create_model(
            model_name, pretrained, num_classes=projection_dim, **(model_kwargs or {})
        )
        self.model = with_adapters(model, peft_config)

    def forward(self, inputs: dict[str, Tensor]) -> BaseModelOutput:
        """Embed ``rgb``, float32 of shape ``(B, 3, S, S)``."""
        return BaseModelOutput(last_hidden_state=self.model(inputs["rgb"]))


def embedding_width(part: Mapping[str, Any]) -> int:
    """Return the length of a modality's embeddings; `part` is as in :class:`Network`."""
    if part["head"] is not None:
        return int(part["head"].get("out_dim") or part["head"]["in_dim"])
    encoder = part["encoder"]
    return int(encoder.get("projection_dim") or encoder["config"]["hidden_size"])


def build_encoder(part: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
    """Build the encoder of a modality; `part` and `pretrained` are as in :class:`Network`."""
    encoder, lora = part["encoder"], part["lora"]
    kind = _class_name(encoder)
    adapters = None if lora is None else _adapters(lora)
    if kind in ("TimmViT", "TimmPhotoEncoder"):
        kwargs = dict(encoder.get("model_kwargs") or {})
        if not pretrained:
            kwargs.pop("pretrained_cfg_overlay", None)  # says where first weights are from
        return TimmPhotoEncoder(
            encoder["model_name"], encoder["projection_dim"], kwargs, adapters, pretrained
        )
    if kind == "PhotoEncoder":
        from projects.bioscan_clip.encoders.photo import PhotoEncoder

        return PhotoEncoder(
            encoder["model_name"],
            encoder["projection_dim"],
            pretrained,
            adapters,
            encoder.get("model_kwargs"),
        )
    if kind == "BarcodeBERT":
        from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT

        config = dict(encoder["config"])
        return BarcodeBERT(
            config.pop("vocab_size"),
            encoder["projection_dim"],
            os.environ.get("BARCODEBERT_5MER") if pretrained else None,
            peft_config=adapters,
            model_config_kwargs=config,
            pooling=encoder.get("pooling", "softmax_mean"),
        )
    if kind == "TextEncoder":
        from transformers import AutoConfig

        from projects.bioscan_clip.encoders.text import TextEncoder

        source = (
            part["tokenizer"]["name"] if pretrained else AutoConfig.for_model(**encoder["config"])
        )
        return TextEncoder(source, pretrained, encoder.get("pooling", "mean"), peft_config=adapters)
    raise ValueError(
        f"A model with the encoder {encoder['_target_']} can be evaluated by job_type=eval, but "
        "not be loaded here; TimmViT, PhotoEncoder, BarcodeBERT and TextEncoder can."
    )


def build_head(head: Mapping[str, Any]) -> nn.Module:
    """Build a head as mmlearn's ``MLP``; `head` holds its arguments."""
    unknown = {"hidden_dims_multiplier", "norm_layer"}.intersection(head)
    activation = (head.get("activation_layer") or {}).get("path", "").rpartition(".")[2]
    if _class_name(head) != "MLP" or unknown or not isinstance(head.get("bias", True), bool):
        raise ValueError(
            f"A model with the head {dict(head)} can be evaluated by job_type=eval, but not be "
            "loaded here; mmlearn's MLP with in_dim, out_dim and hidden_dims can."
        )
    bias = head.get("bias", True)
    widths = [head["in_dim"], *(head.get("hidden_dims") or ())]
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following, bias=bias)]
        layers += [getattr(nn, activation)()] if activation else []
        layers += [nn.Identity()]  # where training has dropout
    out = head.get("out_dim") or head["in_dim"]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out, bias=bias))


def _adapters(lora: Mapping[str, Any]) -> "PeftConfig":
    arguments = {name: value for name, value in lora.items() if not name.startswith("_")}
    if _class_name(lora) == "clibd_vit_lora":
        from projects.bioscan_clip.encoders.lora import clibd_vit_lora

        return clibd_vit_lora(**arguments)
    from peft import LoraConfig

    return LoraConfig(**arguments)


def _class_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]
