"""The encoder of DNA barcodes."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from mmlearn.datasets.core.modalities import Modalities
from torch import nn
from transformers import BertConfig, BertForMaskedLM
from transformers.modeling_outputs import BaseModelOutput

from projects.bioscan_clip.arguments import check_choice
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders.weights import (
    PretrainedWeights,
    load_into,
    load_weights,
    with_adapters,
)

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.getLogger(__name__)

Pooling = Literal["softmax_mean", "hidden_mean"]

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)
_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder.*"
_VOCABULARY_BIAS = "cls.predictions.bias"
_TRANSFORM = "cls.predictions.transform."


class BarcodeBERT(nn.Module):
    """BERT over the 5-mers of a barcode [1]_, tuned as DNA encoder of BIOSCAN-CLIP [2]_.

    The decoder of the masked language model, which scores every token of the vocabulary, gives way
    to a linear projection.

    Parameters
    ----------
    vocab_size : int or None
        Number of tokens: 1027 for 5-mers. None takes that of the checkpoint.
    projection_dim : int
        Length of the embedding.
    pretrained_checkpoint_path : str, optional
        BarcodeBERT's published ``model_41.pth``, a file that its newer training code wrote, or a
        folder of the Hugging Face Hub. None starts from random weights.
    peft_config : peft.PeftConfig, optional
        How to tune a few parameters only; see `peft <https://huggingface.co/docs/peft>`_.
    model_config_kwargs : mapping, optional
        Further arguments of :class:`transformers.BertConfig`. They win over the sizes that a newer
        checkpoint states; without either, BERT-base's apply.
    pooling : {"softmax_mean", "hidden_mean"}, default="softmax_mean"
        How the tokens of one barcode, all positions alike, become one embedding.

        - ``softmax_mean``: mean of each token's softmax over the projection, as CLIBD's code [3]_
          and mmlearn's project do. Embeddings are positive and sum to one.
        - ``hidden_mean``: mean of BERT's last hidden state, then projected. The head's transform,
          which newer checkpoints lack, is left out.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If the checkpoint does not fit, or `pooling` is none of the above.

    References
    ----------
    .. [1] Millan Arias et al., BarcodeBERT: Transformers for Biodiversity Analysis, 2023,
       https://arxiv.org/abs/2311.02401
    .. [2] Gong et al., CLIBD: Bridging Vision and Genomics for Biodiversity Monitoring at Scale,
       ICLR 2025, https://arxiv.org/abs/2405.17537
    .. [3] https://github.com/bioscan-ml/clibd, ``bioscanclip/model/dna_encoder.py``
    """

    def __init__(
        self,
        vocab_size: int | None,
        projection_dim: int,
        pretrained_checkpoint_path: str | None = None,
        peft_config: "PeftConfig | None" = None,
        model_config_kwargs: Mapping[str, Any] | None = None,
        pooling: Pooling = "softmax_mean",
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
        self.pooling = pooling

        weights = None
        if pretrained_checkpoint_path is not None:
            weights = load_weights(
                pretrained_checkpoint_path,
                remedy="Download BarcodeBERT's model_41.pth and set BARCODEBERT_5MER to its path.",
            )
        config = _config(vocab_size, weights, model_config_kwargs or {})
        model = BertForMaskedLM(config)
        model.cls.predictions.decoder = nn.Linear(config.hidden_size, projection_dim)
        if weights is not None:
            self._load(model, weights)

        # DistributedDataParallel waits for the gradient of every trainable parameter, so those that
        # `forward` does not use are frozen.
        model.cls.predictions.bias.requires_grad_(False)
        if pooling == "hidden_mean":
            model.cls.predictions.transform.requires_grad_(False)

        self.model = with_adapters(model, peft_config)

    def forward(self, inputs: dict[str, Any]) -> BaseModelOutput:
        """Embed a batch of barcodes.

        Parameters
        ----------
        inputs : dict
            ``dna``: int64 tokens, shape ``(B, L)``, L = 133 for 660 bases. ``dna_attention_mask``,
            optional: shape ``(B, L)``, 0 where a position is not to be attended to.

        Returns
        -------
        BaseModelOutput
            ``last_hidden_state`` is the embedding, shape ``(B, projection_dim)``.
        """
        tokens = inputs[Modalities.DNA.name]
        mask = inputs.get(Modalities.DNA.attention_mask)
        if self.pooling == "hidden_mean":
            hidden = self.model.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
            embedding = self.model.cls.predictions.decoder(hidden.mean(dim=1))
        else:
            scores = self.model(input_ids=tokens, attention_mask=mask).logits
            embedding = scores.softmax(dim=-1).mean(dim=1)
        return BaseModelOutput(last_hidden_state=embedding)

    def _load(self, model: BertForMaskedLM, weights: PretrainedWeights) -> None:
        # Newer files come from a token classifier, whose head is one linear layer.
        is_classifier = weights.config is not None and not any(
            name.startswith(_TRANSFORM) for name in weights.state_dict
        )
        kept = load_into(
            model,
            weights,
            ignore_missing=["cls.*"] if is_classifier else [_DECODER, _VOCABULARY_BIAS],
            ignore_unexpected=[_DECODER, "classifier.*", "bert.pooler.*", "*.position_ids"],
        )
        if self.pooling != "hidden_mean" and any(name.startswith(_TRANSFORM) for name in kept):
            logger.warning(
                "%s has no weights for cls.predictions.transform, which starts from random ones; "
                'pooling="hidden_mean" does without it.',
                weights.path,
            )


@cache
def tokenizer_of(path: str) -> KmerTokenizer:
    """Make the tokenizer that a BarcodeBERT was pretrained with, as its file tells.

    Parameters
    ----------
    path : str
        As `pretrained_checkpoint_path` of :class:`BarcodeBERT`.

    Returns
    -------
    KmerTokenizer
        k and the ``[CLS]`` token are told by the size of the vocabulary; the stride by the options
        of the training, and is k where they are missing.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its vocabulary is none of k-mers over ACGT.
    """
    weights = load_weights(path)
    words = len(weights.state_dict[_WORDS])
    sizes = {4**k + 2 + with_cls: (k, bool(with_cls)) for k in range(2, 9) for with_cls in (0, 1)}
    if words not in sizes:
        raise ValueError(
            f"{path} has a vocabulary of {words:,} tokens, which is none of k-mers over ACGT: "
            "barcodes cannot be tokenized for it."
        )
    k, cls_token = sizes[words]
    return KmerTokenizer(k, int(weights.training.get("stride") or k), cls_token=cls_token)


def _config(
    vocab_size: int | None, weights: PretrainedWeights | None, overrides: Mapping[str, Any]
) -> BertConfig:
    stated = (weights.config if weights else None) or {}
    if vocab_size is None:
        if weights is None:
            raise ValueError("`vocab_size` is needed where there is no checkpoint to tell it.")
        vocab_size = len(weights.state_dict[_WORDS])
    if weights is not None and stated.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(
            f"{weights.path} was trained on a vocabulary of {stated['vocab_size']} tokens, but "
            f"`vocab_size` is {vocab_size}: its tokenizer is another one."
        )
    sizes = {name: stated[name] for name in _SIZES if name in stated}
    # The decoder is a projection, so it must never be tied to the word embeddings again.
    return BertConfig(**{**sizes, **overrides, "tie_word_embeddings": False}, vocab_size=vocab_size)
