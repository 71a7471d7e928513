"""CLIBD's adapters in mmlearn's vision transformer, and that transformer's reference numbers."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra_zen import builds, instantiate
from mmlearn.modules.encoders.vision import TimmViT
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch import nn

from projects.bioscan_clip.encoders import QueryValueLora, clibd_vit_lora, fuse_adapters
from projects.bioscan_clip.encoders.lora import FusedLora

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
DIM = 12
DEPTH = 2
PROJECTION = 5
RANK = 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32)


def _vit(peft_config: LoraConfig | None) -> TimmViT:
    torch.manual_seed(1)
    return TimmViT(
        "vit_base_patch16_224",
        projection_dim=PROJECTION,
        pretrained=False,
        peft_config=peft_config,
        model_kwargs={"embed_dim": DIM, "depth": DEPTH, "num_heads": 2, "img_size": 32},
    ).eval()


def _embed(encoder: TimmViT, images: torch.Tensor) -> torch.Tensor:
    embedding: torch.Tensor = encoder({"rgb": images}).last_hidden_state
    return embedding


def _adapters(module: nn.Module) -> list[QueryValueLora]:
    return [child for child in module.modules() if isinstance(child, QueryValueLora)]


def _randomise(module: nn.Module) -> None:
    for adapter in _adapters(module):
        nn.init.normal_(adapter.lora_B["default"].weight)


def test_mmlearn_vit_equals_the_reference() -> None:
    """Weights and embeddings were written by mmlearn's own project, with PEFT's plain LoRA."""
    arguments = json.loads((PARITY / "encoders.json").read_text())["vit"]
    lora = LoraConfig(**arguments.pop("lora"))
    encoder = TimmViT(**arguments, pretrained=False, peft_config=lora).eval()
    encoder.load_state_dict(load_file(PARITY / "vit.safetensors"), strict=True)
    reference = np.load(PARITY / "vit_io.npz")

    with torch.no_grad():
        embedding = _embed(encoder, torch.from_numpy(reference["rgb"]))

    np.testing.assert_allclose(embedding.numpy(), reference["embedding"], rtol=0, atol=1e-5)


def test_starts_as_the_base_model(images: torch.Tensor) -> None:
    with_lora, plain = _vit(clibd_vit_lora()), _vit(None)
    assert len(_adapters(with_lora)) == DEPTH
    torch.testing.assert_close(_embed(with_lora, images), _embed(plain, images))


@pytest.mark.parametrize(("lora_alpha", "scale"), [(None, 1.0), (8, 2.0)])
def test_adapts_query_and_value_but_not_key(lora_alpha: int | None, scale: float) -> None:
    base = nn.Linear(DIM, 3 * DIM)
    w_q, w_k, w_v = base.weight.detach().clone().double().numpy().reshape(3, DIM, DIM)
    b_q, b_k, b_v = base.bias.detach().clone().double().numpy().reshape(3, DIM)
    model = get_peft_model(
        nn.ModuleDict({"qkv": base}), clibd_vit_lora(RANK, lora_alpha, modules_to_save=[])
    )
    (adapter,) = _adapters(model)
    _randomise(model)
    a = adapter.lora_A["default"].weight.detach().double().numpy()
    b = adapter.lora_B["default"].weight.detach().double().numpy()
    x = torch.randn(2, 3, DIM)

    query, key, value = adapter(x).detach().double().numpy().reshape(2, 3, 3, DIM).swapaxes(0, 2)

    rows = x.double().numpy().swapaxes(0, 1)
    expected_query = rows @ (w_q + scale * b[0] @ a[:RANK]).T + b_q
    expected_value = rows @ (w_v + scale * b[1] @ a[RANK:]).T + b_v
    np.testing.assert_allclose(query, expected_query, atol=1e-5)
    np.testing.assert_allclose(key, rows @ w_k.T + b_k, atol=1e-5)
    np.testing.assert_allclose(value, expected_value, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "config", [LoraConfig(r=RANK, lora_alpha=8, target_modules=["qkv"]), clibd_vit_lora(RANK, 8)]
)
def test_fused_adapters_equal_peft_s(config: LoraConfig, autocast: bool) -> None:
    """The same outputs and gradients as of PEFT's own forward pass."""
    model = get_peft_model(nn.ModuleDict({"qkv": nn.Linear(DIM, 3 * DIM)}), config)
    names = list(model.state_dict())
    fuse_adapters(model)
    assert list(model.state_dict()) == names
    (layer,) = (child for child in model.modules() if isinstance(child, FusedLora))
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(2, 3, DIM, requires_grad=True)
    weights = [x, *(p for p in model.parameters() if p.requires_grad)]
    results = []
    for forward in (layer, partial(LoraLinear.forward, layer)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = forward(x)
        gradients = torch.autograd.grad(output.float().square().sum(), weights)
        results.append((output, *gradients))
    for ours, theirs in zip(*results, strict=True):
        error = (ours - theirs).float().norm() / theirs.float().norm()
        assert error < (0.02 if autocast else 1e-6)


def test_what_is_not_fused_is_peft_s() -> None:
    config = LoraConfig(r=2, target_modules=["qkv"], lora_bias=True)
    model = get_peft_model(nn.ModuleDict({"qkv": nn.Linear(DIM, DIM)}), config)
    (layer,) = (child for child in model.modules() if isinstance(child, LoraLinear))
    nn.init.normal_(layer.lora_B["default"].bias)
    x = torch.randn(2, DIM)
    expected = layer(x)
    fuse_adapters(model)
    assert isinstance(layer, FusedLora)
    torch.testing.assert_close(layer(x), expected)
    with model.disable_adapter():
        torch.testing.assert_close(layer(x), layer.base_layer(x))


def test_a_starts_as_a_linear_layer_of_rank_r() -> None:
    base = nn.Linear(256, 768)
    model = get_peft_model(nn.ModuleDict({"qkv": base}), clibd_vit_lora(modules_to_save=[]))
    a = _adapters(model)[0].lora_A["default"].weight
    # kaiming_uniform with a = sqrt 5 is uniform in +-1/sqrt(fan_in): deviation 1/sqrt(3 fan_in)
    assert a.abs().max() <= 256**-0.5
    assert a.std().item() == pytest.approx((3 * 256) ** -0.5, rel=0.05)


def test_only_adapters_and_head_are_trained(images: torch.Tensor) -> None:
    encoder = _vit(clibd_vit_lora(RANK)).train()
    _randomise(encoder)

    _embed(encoder, images).square().sum().backward()

    trainable = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable.values())
    assert sum(p.grad is not None for p in encoder.parameters()) == len(trainable)
    adapters = sum(p.numel() for name, p in trainable.items() if "attn.qkv.lora_" in name)
    head = sum(p.numel() for name, p in trainable.items() if "head.modules_to_save" in name)
    assert adapters == DEPTH * 4 * RANK * DIM
    assert head == (DIM + 1) * PROJECTION
    assert adapters + head == sum(p.numel() for p in trainable.values())


def test_state_dict_round_trip(images: torch.Tensor, tmp_path: Path) -> None:
    source, copy = _vit(clibd_vit_lora()), _vit(clibd_vit_lora())
    _randomise(source)
    assert not torch.allclose(_embed(source, images), _embed(copy, images))
    torch.save(source.state_dict(), tmp_path / "vit.pt")
    copy.load_state_dict(torch.load(tmp_path / "vit.pt", weights_only=True), strict=True)
    assert torch.equal(_embed(source, images), _embed(copy, images))


def test_merge_unmerge_and_disable(images: torch.Tensor) -> None:
    encoder, plain = _vit(clibd_vit_lora(lora_alpha=8)), _vit(None)
    _randomise(encoder)
    adapted = _embed(encoder, images)

    with encoder.model.disable_adapter():
        torch.testing.assert_close(_embed(encoder, images), _embed(plain, images))
    encoder.model.merge_adapter()
    torch.testing.assert_close(_embed(encoder, images), adapted, atol=1e-5, rtol=1e-4)
    encoder.model.unmerge_adapter()
    torch.testing.assert_close(_embed(encoder, images), adapted, atol=1e-5, rtol=1e-4)
    plain.model = encoder.model.merge_and_unload()
    assert not _adapters(plain)
    torch.testing.assert_close(_embed(plain, images), adapted, atol=1e-5, rtol=1e-4)


def test_autocast(images: torch.Tensor) -> None:
    encoder = _vit(clibd_vit_lora())
    for adapter in _adapters(encoder):
        nn.init.normal_(adapter.lora_B["default"].weight, std=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = _embed(encoder, images)
        embedding.float().square().sum().backward()
    assert embedding.dtype == torch.bfloat16
    torch.testing.assert_close(embedding.float(), _embed(encoder, images), atol=0.05, rtol=0.05)
    gradients = [p.grad for p in encoder.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_layers_that_are_not_fused_are_refused() -> None:
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.proj maps 12 to 12 features"):
        _vit(clibd_vit_lora(target_modules=["qkv", "proj"]))


def test_hydra_builds_it(images: torch.Tensor) -> None:
    config = builds(clibd_vit_lora, r=2, populate_full_signature=True)
    encoder = _vit(instantiate(config))
    assert _adapters(encoder)[0].lora_A["default"].weight.shape == (4, DIM)
    assert _adapters(encoder)[0].scaling["default"] == 1.0
