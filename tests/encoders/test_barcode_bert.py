"""The DNA encoder: reference numbers, pooling, checkpoints, and what is trained."""

import argparse
import json
import logging
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from projects.bioscan_clip.encoders.barcode_bert import BarcodeBERT, tokenizer_of

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
VOCAB = 11
DIM = 5
SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
POOLINGS = ["softmax_mean", "hidden_mean"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(VOCAB, (3, 7))


def _lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["decoder"])


def _encoder(**kwargs: Any) -> BarcodeBERT:
    return BarcodeBERT(VOCAB, DIM, **{"model_config_kwargs": SIZES, **kwargs}).eval()


def _masked_lm(**kwargs: Any) -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(**{"vocab_size": VOCAB, **SIZES, **kwargs})).eval()


def test_embeddings_equal_the_reference() -> None:
    """Weights and embeddings were written by mmlearn's own project."""
    arguments = json.loads((PARITY / "encoders.json").read_text())["barcode_bert"]
    lora = LoraConfig(**arguments.pop("lora"))
    encoder = BarcodeBERT(**arguments, peft_config=lora).eval()
    encoder.load_state_dict(load_file(PARITY / "barcode_bert.safetensors"), strict=True)
    reference = np.load(PARITY / "barcode_bert_io.npz")

    with torch.no_grad():
        outputs = encoder({"dna": torch.from_numpy(reference["dna"])})

    assert outputs.hidden_states is None
    np.testing.assert_allclose(
        outputs.last_hidden_state.numpy(), reference["embedding"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_is_what_it_says(tokens: torch.Tensor, pooling: str) -> None:
    encoder = _encoder(pooling=pooling)
    mask = torch.ones_like(tokens)
    mask[0, 4:] = 0

    embedding = encoder({"dna": tokens, "dna_attention_mask": mask}).last_hidden_state

    bert, head = encoder.model.bert, encoder.model.cls.predictions
    weight, bias = head.decoder.weight, head.decoder.bias
    hidden = bert(tokens, attention_mask=mask).last_hidden_state
    if pooling == "hidden_mean":
        expected = hidden.mean(1) @ weight.T + bias
    else:
        scores = (head.transform(hidden) @ weight.T + bias).exp()
        expected = (scores / scores.sum(-1, keepdim=True)).mean(1)
    assert embedding.shape == (3, DIM)
    torch.testing.assert_close(embedding, expected)
    unmasked = encoder({"dna": tokens}).last_hidden_state
    assert not torch.allclose(embedding[0], unmasked[0], atol=1e-6)


def test_unknown_pooling() -> None:
    with pytest.raises(ValueError, match="one of 'softmax_mean', 'hidden_mean'"):
        _encoder(pooling="max")


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_trainable_parameter_gets_a_gradient(
    tokens: torch.Tensor, pooling: str, with_lora: bool
) -> None:
    encoder = _encoder(pooling=pooling, peft_config=_lora() if with_lora else None).train()

    encoder({"dna": tokens}).last_hidden_state.square().sum().backward()

    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert trainable == with_gradient
    assert any("decoder" in name for name in trainable)
    if with_lora:
        assert all("lora_" in name or "decoder.modules_to_save" in name for name in trainable)


def test_decoder_stays_untied(tokens: torch.Tensor) -> None:
    encoder = _encoder()
    decoder = encoder.model.cls.predictions.decoder
    encoder.model.tie_weights()
    assert encoder.model.cls.predictions.decoder is decoder
    assert decoder.weight.shape == (DIM, SIZES["hidden_size"])

    copy = _encoder()
    copy.load_state_dict(encoder.state_dict(), strict=True)
    assert torch.equal(
        copy({"dna": tokens}).last_hidden_state, encoder({"dna": tokens}).last_hidden_state
    )


def test_published_checkpoint(tmp_path: Path, tokens: torch.Tensor) -> None:
    """The layout of ``model_41.pth``: a masked language model, trained by DataParallel."""
    source = _masked_lm()
    content = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    content["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(content, tmp_path / "model_41.pth")

    encoder = _encoder(pretrained_checkpoint_path=str(tmp_path / "model_41.pth"))

    for ours, theirs in [
        (encoder.model.bert, source.bert),
        (encoder.model.cls.predictions.transform, source.cls.predictions.transform),
    ]:
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name


def _newer_checkpoint(path: Path, **config_kwargs: Any) -> BertForTokenClassification:
    config = BertConfig(**{"vocab_size": VOCAB, **SIZES, "num_labels": 6, **config_kwargs})
    source = BertForTokenClassification(config).eval()
    content = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"model": content, "bert_config": config.to_dict(), "epoch": 1}, path)
    return source


@pytest.mark.parametrize(("pooling", "warns"), [("softmax_mean", True), ("hidden_mean", False)])
def test_newer_checkpoint_sets_sizes_and_warns_of_its_missing_transform(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pooling: str, warns: bool
) -> None:
    path = tmp_path / "best.pt"
    source = _newer_checkpoint(path)

    with caplog.at_level(logging.WARNING):
        encoder = _encoder(
            pretrained_checkpoint_path=str(path), model_config_kwargs=None, pooling=pooling
        )

    assert encoder.model.config.num_attention_heads == SIZES["num_attention_heads"]
    for name, tensor in source.bert.state_dict().items():
        assert torch.equal(encoder.model.bert.state_dict()[name], tensor), name
    assert ("cls.predictions.transform" in caplog.text) is warns


def test_arguments_win_over_the_checkpoint_s_sizes(tmp_path: Path) -> None:
    _newer_checkpoint(tmp_path / "best.pt", num_attention_heads=4)
    encoder = _encoder(pretrained_checkpoint_path=str(tmp_path / "best.pt"))
    assert encoder.model.config.num_attention_heads == SIZES["num_attention_heads"]


def test_another_vocabulary(tmp_path: Path) -> None:
    _newer_checkpoint(tmp_path / "best.pt", vocab_size=VOCAB + 1)
    with pytest.raises(
        ValueError, match=rf"best\.pt .*{VOCAB + 1} tokens.*`vocab_size` is {VOCAB}"
    ):
        _encoder(pretrained_checkpoint_path=str(tmp_path / "best.pt"))


def _tokens_of_newer_code(barcode: str, k: int, stride: int) -> list[int]:
    """Tokens without a [CLS]: 0 is the mask, 1 unknown, and 4 ** k words follow."""
    words = ["".join(letters) for letters in product("ACGT", repeat=k)]
    padded = barcode[:660].ljust(660, "N")
    kmers = (padded[start : start + k] for start in range(0, 660 - k + 1, stride))
    return [words.index(kmer) + 2 if kmer in words else 1 for kmer in kmers]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_newer_checkpoint_tells_its_tokenizer(tmp_path: Path, is_folder: bool) -> None:
    config = BertConfig(**{**SIZES, "vocab_size": 4**4 + 2, "num_hidden_layers": 3})
    source = BertForTokenClassification(config).eval()
    path = tmp_path / "model"
    if is_folder:
        source.save_pretrained(path)
    else:
        options = argparse.Namespace(k_mer=4, stride=3)
        content = {"model": source.state_dict(), "bert_config": config.to_dict()}
        torch.save(content | {"config": options}, path)
    tokenizer = tokenizer_of(str(path))
    stride = 4 if is_folder else 3
    barcodes = ["ACGTN" * 60, "GATTACA" * 99]
    tokens = tokenizer(barcodes)
    assert tokens.tolist() == [_tokens_of_newer_code(barcode, 4, stride) for barcode in barcodes]
    assert tokens.max() < tokenizer.vocab_size == 258

    encoder = BarcodeBERT(None, 8, str(path), pooling="hidden_mean").eval()
    assert encoder.model.config.num_hidden_layers == 3
    with torch.inference_mode():
        hidden = source.bert(tokens).last_hidden_state.mean(dim=1)
        expected = encoder.model.cls.predictions.decoder(hidden)
        torch.testing.assert_close(encoder({"dna": tokens}).last_hidden_state, expected)


def test_a_vocabulary_that_is_not_of_kmers(tmp_path: Path) -> None:
    _newer_checkpoint(tmp_path / "best.pt", vocab_size=5**4 + 1)
    with pytest.raises(ValueError, match=r"626 tokens, which is none of k-mers"):
        tokenizer_of(str(tmp_path / "best.pt"))
    with pytest.raises(ValueError, match="`vocab_size` is needed"):
        BarcodeBERT(None, 8)


def test_checkpoint_of_another_model(tmp_path: Path) -> None:
    state_dict = _masked_lm(num_hidden_layers=3, intermediate_size=24).state_dict()
    del state_dict["cls.predictions.transform.dense.bias"]
    torch.save(state_dict, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not fit") as caught:
        _encoder(pretrained_checkpoint_path=str(tmp_path / "other.pth"))
    message = str(caught.value)
    assert "missing: cls.predictions.transform.dense.bias\n" in message
    assert "unexpected: bert.encoder.layer.2.attention.self.query.weight" in message
    assert "bert.encoder.layer.0.intermediate.dense.weight (24, 8) instead of (16, 8)" in message
    assert "decoder" not in message


def test_missing_checkpoint_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model_41\.pth.* set BARCODEBERT_5MER"):
        _encoder(pretrained_checkpoint_path=str(tmp_path / "model_41.pth"))
