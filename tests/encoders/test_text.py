"""The text encoder: pooling, state-dict names, what is trained, and a missing model."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from mmlearn.modules.encoders.text import HFTextEncoder
from peft import LoraConfig
from transformers import AutoModel, BertConfig, BertModel

from projects.bioscan_clip.encoders import BERT_SAMPLE, TextEncoder

VOCAB = 13
HIDDEN = 8


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    mask = (torch.arange(20) < torch.tensor([[20], [5], [1]])).long()
    return {"text": torch.randint(1, VOCAB, (3, 20)) * mask, "text_attention_mask": mask}


def _hidden(folder: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder).eval()
    hidden: torch.Tensor = model(batch["text"], batch["text_attention_mask"]).last_hidden_state
    return hidden


def test_mean_runs_over_all_positions(folder: str, batch: dict[str, torch.Tensor]) -> None:
    outputs = TextEncoder(folder).eval()(batch)
    assert outputs.hidden_states is None
    torch.testing.assert_close(outputs.last_hidden_state, _hidden(folder, batch).sum(1) / 20)


def test_masked_mean_leaves_out_padding(folder: str, batch: dict[str, torch.Tensor]) -> None:
    embedding = TextEncoder(folder, pooling="masked_mean").eval()(batch).last_hidden_state
    hidden = _hidden(folder, batch)
    expected = torch.stack([hidden[0].mean(0), hidden[1, :5].mean(0), hidden[2, 0]])
    torch.testing.assert_close(embedding, expected)


def test_masked_mean_of_nothing_is_zero(folder: str, batch: dict[str, torch.Tensor]) -> None:
    batch["text_attention_mask"][2] = 0
    embedding = TextEncoder(folder, pooling="masked_mean").eval()(batch).last_hidden_state
    assert torch.equal(embedding[2], torch.zeros(HIDDEN))


def test_unknown_pooling(folder: str) -> None:
    with pytest.raises(ValueError, match="one of 'mean', 'masked_mean'"):
        TextEncoder(folder, pooling="max")


def test_state_dict_is_that_of_mmlearn(folder: str) -> None:
    lora = {"r": 2, "target_modules": ["query", "value"]}
    theirs = HFTextEncoder(folder, peft_config=LoraConfig(**lora)).state_dict()
    TextEncoder(folder, peft_config=LoraConfig(**lora)).load_state_dict(theirs, strict=True)


@pytest.mark.parametrize("pooling", ["mean", "masked_mean"])
@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("pretrained", [False, True])
def test_every_trainable_parameter_gets_a_gradient(
    folder: str, batch: dict[str, torch.Tensor], pooling: str, with_lora: bool, pretrained: bool
) -> None:
    lora = LoraConfig(r=2, target_modules=["query", "value"]) if with_lora else None
    encoder = TextEncoder(folder, pretrained=pretrained, pooling=pooling, peft_config=lora)

    encoder(batch).last_hidden_state.square().sum().backward()

    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert trainable
    assert trainable == with_gradient
    assert all("lora_" in name for name in trainable) is with_lora


def test_arguments_are_not_changed(folder: str) -> None:
    arguments = {"hidden_dropout_prob": 0.3}
    encoder = TextEncoder(folder, model_config_kwargs=arguments)
    assert arguments == {"hidden_dropout_prob": 0.3}
    assert encoder.model.config.hidden_dropout_prob == 0.3


def test_sample_model_reads_the_sample_s_tokens() -> None:
    encoder = TextEncoder(BERT_SAMPLE, pretrained=False).eval()
    tokens = torch.randint(2000, (2, 20))
    embedding = encoder({"text": tokens, "text_attention_mask": torch.ones_like(tokens)})
    assert embedding.last_hidden_state.shape == (2, 128)


@pytest.mark.parametrize("pretrained", [False, True])
def test_missing_model_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ["no-such/bert", str(tmp_path / "no-folder")]:
        with pytest.raises(
            OSError, match=f"{name}' cannot be loaded.*`model_name_or_path`"
        ) as caught:
            TextEncoder(name, pretrained=pretrained)
        assert ("its weights" in str(caught.value)) is pretrained


def test_folder_without_weights() -> None:
    with pytest.raises(OSError, match=r"folder with config\.json and its weights"):
        TextEncoder(BERT_SAMPLE, pretrained=True)
