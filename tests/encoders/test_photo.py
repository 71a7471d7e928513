"""Encoders by name, small and from random weights: compared with what timm and OpenCLIP do."""

import open_clip
import pytest
import timm
import torch
from peft import LoraConfig

from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD
from projects.bioscan_clip.encoders.network import Network
from projects.bioscan_clip.encoders.photo import PhotoEncoder, photo_preprocessing

WIDTH = 12
MODELS = {
    "vit_tiny_patch16_224": {"img_size": 32},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28},
    "vit_small_patch16_dinov3": {"img_size": 32},
    "vit_tiny_patch16_dinov3_qkvb": {"img_size": 32},
    "vit_base_patch16_siglip_224": {"img_size": 32, "embed_dim": 48, "num_heads": 4},
    "eva02_tiny_patch14_224": {"img_size": 28, "qkv_fused": False},
}
OPEN_CLIP = "open_clip/ViT-S-32-alt"


def lora() -> LoraConfig:
    return LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"])


def photos(size: int) -> dict[str, torch.Tensor]:
    return {"rgb": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_timm_embeds_as_timm_does(name):
    kwargs = MODELS[name] | {"depth": 1}
    encoder = PhotoEncoder(name, WIDTH, pretrained=False, model_kwargs=kwargs).eval()
    model = timm.create_model(name, num_classes=WIDTH, **kwargs).eval()
    with torch.no_grad():
        for weight in encoder.parameters():  # some start from zero, biases say
            weight.normal_(std=0.1)
        model.load_state_dict(encoder.model.state_dict())
        inputs = photos(kwargs["img_size"])
        expected, found = model(inputs["rgb"]), encoder(inputs).last_hidden_state
    assert found.shape == (2, WIDTH)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [*MODELS, OPEN_CLIP])
def test_adapters_reach_attention_and_the_head_is_trained(name):
    kwargs = MODELS[name] | {"depth": 1} if name in MODELS else {"img_size": 32}
    encoder = PhotoEncoder(name, WIDTH, False, lora(), kwargs)
    trained = {key: each for key, each in encoder.named_parameters() if each.requires_grad}
    encoder(photos(kwargs["img_size"])).last_hidden_state.square().sum().backward()
    raised = [key for key in trained if ".lora_B." in key]
    assert raised
    assert all(trained[key].grad.abs().sum() > 0 for key in raised)
    others = {key for key in trained if ".lora_" not in key}
    assert {key.split(".modules_to_save.")[0].split(".")[-1] for key in others} == {"head"}


def test_a_tower_of_open_clip_embeds_as_it_does():
    encoder = PhotoEncoder(OPEN_CLIP, WIDTH, False, model_kwargs={"img_size": 32}).eval()
    clip = open_clip.create_model("ViT-S-32-alt", force_image_size=32).eval()
    names = {key: each for key, each in encoder.model.state_dict().items() if "visual." in key}
    clip.load_state_dict(names, strict=False)
    inputs = photos(32)
    with torch.no_grad():
        expected = encoder.model.head(clip.encode_image(inputs["rgb"]))
        torch.testing.assert_close(encoder(inputs).last_hidden_state, expected)
    assert set(names) == {f"visual.{key}" for key in clip.visual.state_dict()}


@pytest.mark.parametrize(
    "name", ["vit_base_patch14_dinov2.lvd142m", "vit_small_patch16_dinov3", "vit_small_patch16_224"]
)
def test_preprocessing_is_timm_s_own(name):
    model = timm.create_model(name, img_size=56, depth=1)
    expected = timm.data.resolve_model_data_config(model)
    found = photo_preprocessing(name)
    assert {**found, "image_size": 0} == {
        "image_size": 0,
        "mean": list(expected["mean"]),
        "std": list(expected["std"]),
        "interpolation": expected["interpolation"],
    }
    assert found["image_size"] == timm.get_pretrained_cfg(name).input_size[-1]
    assert photo_preprocessing(name, {"img_size": 56})["image_size"] == 56


def test_preprocessing_of_the_paper_s_encoder_and_of_open_clip():
    clip = {"image_size": 224, "mean": list(CLIP_MEAN), "std": list(CLIP_STD)}
    for name in ("vit_base_patch16_224", "vit_base_patch16_224.augreg_in21k", None):
        assert photo_preprocessing(name) == clip | {"interpolation": "bilinear"}
    assert photo_preprocessing(OPEN_CLIP) == clip | {"interpolation": "bicubic"}
    with pytest.raises(ValueError, match=r"timm has no model vit_b\. "):
        photo_preprocessing("vit_b")


def test_a_checkpoint_s_description_builds_the_same_encoder():
    name, kwargs = "vit_small_patch16_dinov3", {"img_size": 32, "depth": 1}
    encoder = PhotoEncoder(name, WIDTH, False, lora(), kwargs)
    described = {
        "encoder": {
            "_target_": "projects.bioscan_clip.encoders.photo.PhotoEncoder",
            "model_name": name,
            "projection_dim": WIDTH,
            "model_kwargs": kwargs,
        },
        "lora": {"_target_": "peft.LoraConfig", "r": 2, "target_modules": ["qkv"]}
        | {"modules_to_save": ["head"]},
        "head": None,
    }
    network = Network({"rgb": described})
    network.encoders["rgb"].load_state_dict(encoder.state_dict())
    inputs = photos(32)
    with torch.no_grad():
        expected = encoder.eval()(inputs).last_hidden_state
        torch.testing.assert_close(network.eval()("rgb", inputs), expected)


def test_bioclip_has_seen_bioscan(monkeypatch):
    """It says so by its name; weights are not needed for that."""
    made = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: made)
    assert PhotoEncoder("hf-hub:imageomics/bioclip-2").has_seen_bioscan
    assert not PhotoEncoder("vit_base_patch14_dinov2.lvd142m").has_seen_bioscan
