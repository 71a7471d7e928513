"""Reading and loading weights: layouts, names, and errors that name file and keys."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from projects.bioscan_clip.encoders import PretrainedWeights, load_into, load_weights


@pytest.fixture
def state_dict() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 2).state_dict()


def _prefixed(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.module."])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_prefixes_are_stripped(
    tmp_path: Path, state_dict: dict[str, torch.Tensor], prefix: str, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(_prefixed(state_dict, prefix), path)

    weights = load_weights(path)

    assert weights.config is None
    assert weights.state_dict.keys() == {"weight", "bias"}
    for name, tensor in state_dict.items():
        assert torch.equal(weights.state_dict[name], tensor)


def test_a_name_is_only_stripped_in_front(tmp_path: Path) -> None:
    torch.save({"module.bert.module.model_x": torch.zeros(1)}, tmp_path / "weights.pth")
    assert set(load_weights(tmp_path / "weights.pth").state_dict) == {"bert.module.model_x"}


def test_newer_layout(tmp_path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    content = {
        "model": _prefixed(state_dict, "module."),
        "bert_config": {"hidden_size": 48},
        "config": argparse.Namespace(lr=1e-4, model_output_dir="out"),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "best.pt")

    weights = load_weights(tmp_path / "best.pt")

    assert weights.config == {"hidden_size": 48}
    assert weights.state_dict.keys() == {"weight", "bias"}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.pth\. Download it\.$"):
        load_weights(tmp_path / "no.pth", remedy="Download it.")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>"])
def test_not_a_weights_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"page\{suffix} cannot be read as weights"):
        load_weights(path)


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth cannot be read as weights"):
        load_weights(tmp_path / "module.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {0: torch.zeros(1)}])
def test_a_file_without_named_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no weights"):
        load_weights(tmp_path / "other.pth")


def test_two_names_for_one_weight(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two\.pth holds the same weights twice"):
        load_weights(tmp_path / "two.pth")


def test_load_into_returns_what_it_left(state_dict: dict[str, torch.Tensor]) -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    given = {**_prefixed(state_dict, "body."), "old.weight": torch.zeros(1)}

    kept = load_into(
        model,
        PretrainedWeights(Path("f.pth"), given),
        ignore_missing=["head.*"],
        ignore_unexpected=["old.*"],
    )

    assert kept == ["head.weight", "head.bias"]
    assert torch.equal(model["body"].weight, state_dict["weight"])
    assert torch.equal(model["body"].bias, state_dict["bias"])


def test_load_into_lists_everything_that_does_not_fit() -> None:
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    before = model["body"].bias.clone()
    given = {
        "body.weight": torch.zeros(2, 4),
        "body.bias": torch.full((2,), 7.0),
        "tail.weight": torch.zeros(1),
    }
    with pytest.raises(ValueError, match=r"f\.pth does not fit this ModuleDict") as caught:
        load_into(model, PretrainedWeights(Path("f.pth"), given))
    assert str(caught.value).splitlines()[1:] == [
        "  missing: head.weight, head.bias",
        "  unexpected: tail.weight",
        "  of another shape: body.weight (2, 4) instead of (2, 3)",
    ]
    assert torch.equal(model["body"].bias, before)
