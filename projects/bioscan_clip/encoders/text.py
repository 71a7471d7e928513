"""The encoder of taxonomic names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from mmlearn.datasets.core import Modalities
from mmlearn.modules.encoders.text import HFTextEncoder
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    from peft import PeftConfig

BERT_SAMPLE: Final[str] = str(Path(__file__).parent / "bert-sample")
"""Folder of a small BERT's configuration, for `model_name_or_path` with ``pretrained=False``."""

Pooling = Literal["mean", "masked_mean"]


class TextEncoder(HFTextEncoder):
    """mmlearn's Hugging Face text encoder, with a mean over tokens that may leave out padding.

    Parameters
    ----------
    model_name_or_path : str
        Name of a model on the Hugging Face Hub, or a local folder.
    pretrained : bool, default=True
        Whether to load the model's weights, not only its configuration.
    pooling : {"mean", "masked_mean"}, default="mean"
        Mean of the last hidden state over all positions, as CLIBD and mmlearn's project do, or over
        those only that the attention mask keeps.
    freeze_layers, freeze_layer_norm
        As in ``HFTextEncoder``.
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
        model_name_or_path: str,
        pretrained: bool = True,
        pooling: Pooling = "mean",
        freeze_layers: int | float | list[int] | bool = False,
        freeze_layer_norm: bool = True,
        peft_config: "PeftConfig | None" = None,
        model_config_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if pooling not in get_args(Pooling):
            raise ValueError(
                f"`pooling` is {pooling!r}; choose one of {', '.join(get_args(Pooling))}."
            )
        try:
            super().__init__(
                model_name_or_path,
                pretrained=pretrained,
                freeze_layers=freeze_layers,
                freeze_layer_norm=freeze_layer_norm,
                peft_config=peft_config,
                model_config_kwargs=dict(model_config_kwargs or {}),
            )
        except OSError as error:
            needed = "config.json and its weights" if pretrained else "config.json"
            raise OSError(
                f"The text model {model_name_or_path!r} cannot be loaded: run once where there is "
                "internet, so that it is downloaded and cached, or set `model_name_or_path` to a "
                f"local folder with {needed}."
            ) from error
        self.pooling = pooling

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
        hidden = super().forward(inputs).last_hidden_state
        if self.pooling == "mean":
            embedding = hidden.mean(dim=1)
        else:
            mask = inputs[Modalities.TEXT.attention_mask].unsqueeze(-1).to(hidden.dtype)
            embedding = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return BaseModelOutput(last_hidden_state=embedding)
