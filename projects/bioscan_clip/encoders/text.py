"""The encoder of taxonomic names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from mmlearn.datasets.core.modalities import Modalities
from torch import nn
from transformers import AutoConfig, AutoModelForTextEncoding, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from projects.bioscan_clip.arguments import check_choice
from projects.bioscan_clip.encoders.weights import with_adapters

if TYPE_CHECKING:
    from peft import PeftConfig

BERT_SAMPLE: Final[str] = str(Path(__file__).parent / "bert-sample")
"""Folder of a small BERT's configuration, for `model_name_or_path` with ``pretrained=False``."""

Pooling = Literal["mean", "masked_mean"]


class TextEncoder(nn.Module):
    """mmlearn's Hugging Face text encoder, with a mean over tokens that may leave out padding.

    State dict and arguments are those of its ``HFTextEncoder``, which takes longer to import.

    Parameters
    ----------
    model_name_or_path : str or transformers.PretrainedConfig
        Name of a model on the Hugging Face Hub, a local folder, or the configuration itself, which
        comes without weights.
    pretrained : bool, default=True
        Whether to load the model's weights, not only its configuration.
    pooling : {"mean", "masked_mean"}, default="mean"
        Mean of the last hidden state over all positions, as CLIBD and mmlearn's project do, or over
        those only that the attention mask keeps.
    freeze_layers : bool, int, float or list of int, default=False
        Layers that are not trained, of the embeddings and the layers after them: all, the first so
        many, the first so large a share, or those at these positions.
    freeze_layer_norm : bool, default=True
        Whether layer normalisation is frozen with its layer.
    peft_config : peft.PeftConfig, optional
        How to tune a few parameters only; see `peft <https://huggingface.co/docs/peft>`_.
    model_config_kwargs : mapping, optional
        Further arguments of the model's configuration.

    Raises
    ------
    OSError
        If the model is neither a local folder, nor cached, nor to be downloaded.
    ValueError
        If `pooling` is none of the above.
    """

    def __init__(
        self,
        model_name_or_path: str | PretrainedConfig,
        pretrained: bool = True,
        pooling: Pooling = "mean",
        freeze_layers: int | float | list[int] | bool = False,
        freeze_layer_norm: bool = True,
        peft_config: "PeftConfig | None" = None,
        model_config_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        self.pooling = pooling
        model = _load(model_name_or_path, pretrained, dict(model_config_kwargs or {}))
        _freeze(model, freeze_layers, freeze_layer_norm)
        self.model = with_adapters(model, peft_config)

    def forward(self, inputs: dict[str, Any]) -> BaseModelOutput:
        """Embed a batch of names.

        Parameters
        ----------
        inputs : dict
            ``text``: int64 tokens, shape ``(B, L)``. ``text_attention_mask``: shape ``(B, L)``, 1
            for tokens and 0 for padding; needed for ``masked_mean``, optional otherwise.

        Returns
        -------
        BaseModelOutput
            ``last_hidden_state`` is the embedding, shape ``(B, hidden_size)``.
        """
        mask = inputs.get(Modalities.TEXT.attention_mask)
        if mask is not None:
            # As what is added to similarities. Of a mask as it comes, transformers asks first
            # whether all of it is 1, which waits for the GPU.
            mask = (1 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        outputs = self.model(input_ids=inputs[Modalities.TEXT.name], attention_mask=mask)
        hidden = outputs.last_hidden_state
        if self.pooling == "mean":
            embedding = hidden.mean(dim=1)
        else:
            kept = inputs[Modalities.TEXT.attention_mask].unsqueeze(-1).to(hidden.dtype)
            embedding = (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        return BaseModelOutput(last_hidden_state=embedding)


def _load(name: str | PretrainedConfig, pretrained: bool, options: dict[str, Any]) -> Any:
    options = {"add_pooling_layer": False} | options
    if isinstance(name, PretrainedConfig):
        return AutoModelForTextEncoding.from_config(name, **options)
    try:
        if pretrained:
            return AutoModelForTextEncoding.from_pretrained(name, **options)
        config, others = AutoConfig.from_pretrained(name, return_unused_kwargs=True, **options)
        return AutoModelForTextEncoding.from_config(config, **others)
    except OSError as error:
        needed = "config.json and its weights" if pretrained else "config.json"
        raise OSError(
            f"The text model {name!r} cannot be loaded: run once where there is internet, so that "
            "it is downloaded and cached, or set `model_name_or_path` to a local folder with "
            f"{needed}."
        ) from error


def _freeze(model: Any, chosen: int | float | list[int] | bool, norms: bool) -> None:
    if chosen is False:
        return
    layers = [model.embeddings, *model.encoder.layer]
    if isinstance(chosen, list):
        frozen = [layers[place] for place in chosen]
    elif chosen is True:
        frozen = [model]
    else:
        frozen = layers[: int(chosen * len(layers)) if isinstance(chosen, float) else chosen]
    for layer in frozen:
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_("LayerNorm" in name and not norms)
