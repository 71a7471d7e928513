"""Checkpoint to folder to embeddings; the Hub is a folder that stands in for it."""

import json
import os
from pathlib import Path

import h5py
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.encoders.network import Network
from projects.bioscan_clip.encoders.pretrained import read_model
from projects.bioscan_clip.inference import load_model
from projects.bioscan_clip.inference.exporting import save_timm
from projects.bioscan_clip.inference.model import Model


def command(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def embeddings(model: Model, file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as data:
        split = data["test_seen"]
        lengths = split["image_mask"][:]
        photos = [row[:n].tobytes() for row, n in zip(split["image"], lengths, strict=True)]
        names = [name.decode() for name in split["species"]]
        return {
            "rgb": model.encode_image(photos),
            "dna": model.encode_dna([barcode.decode() for barcode in split["barcode"]]),
            "text": model.encode_text(names),
        }


@pytest.fixture(scope="module")
def trained(adapted_run):
    return load_model(adapted_run / "train", device="cpu")


@pytest.fixture(scope="module")
def merged(adapted_run, tmp_path_factory):
    """What the command writes."""
    folder = tmp_path_factory.mktemp("models") / "merged"
    command(
        "model",
        "export",
        adapted_run / "train",
        "--out",
        folder,
        "--evaluation",
        adapted_run / "eval",
    )
    return folder


def test_embeddings_survive(trained, merged, sample_file, tmp_path):
    expected = embeddings(trained, sample_file)
    kept = load_model(trained.save_pretrained(tmp_path / "kept", merge=False), device="cpu")
    assert kept.hash == trained.hash
    assert kept.logit_scale == trained.logit_scale
    found, rounded = embeddings(kept, sample_file), embeddings(load_model(merged), sample_file)
    for modality, vectors in expected.items():
        np.testing.assert_array_equal(found[modality], vectors)
        np.testing.assert_allclose(rounded[modality], vectors, atol=1e-6)
    assert not any("lora" in name for name in load_file(merged / "model.safetensors"))


def test_a_folder_written_again_has_the_same_bytes(trained, merged, adapted_run, tmp_path):
    again = trained.save_pretrained(tmp_path / "merged", evaluations=[adapted_run / "eval"])
    names = sorted(path.name for path in merged.iterdir())
    assert names == [
        "README.md", "config.json", "evaluation.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    for name in names:
        assert (again / name).read_bytes() == (merged / name).read_bytes(), name
    twice = load_model(merged).save_pretrained(tmp_path / "twice" / "merged")
    weights = "model.safetensors"
    assert (twice / weights).read_bytes() == (merged / weights).read_bytes()


def test_one_modality_alone(trained, merged):
    names = {name.split(".")[1] for name in read_model(merged, ["dna"]).state_dict if "." in name}
    assert names == {"dna"}
    alone = load_model(merged, modalities=["dna"])
    assert alone.modalities == ("dna",)
    barcode = "ACGT" * 160
    np.testing.assert_allclose(
        alone.encode_dna([barcode]), trained.encode_dna([barcode]), atol=1e-6
    )
    with pytest.raises(ValueError, match="a model without sound"):
        load_model(merged, modalities=["sound"])


def test_photos_by_timm_alone(trained, merged, tmp_path):
    folder = save_timm(load_model(merged), tmp_path / "vit")
    vit = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    rgb = torch.randn(8, 3, 80, 80, generator=torch.manual_seed(0))
    with torch.inference_mode():
        expected = load_model(merged, "cpu").network("rgb", {"rgb": rgb})
        torch.testing.assert_close(vit(rgb), expected, rtol=0, atol=0)
    assert vit.pretrained_cfg["mean"] == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


def test_the_card_is_filled(merged, adapted_run):
    card = ModelCard.load(merged / "README.md")
    assert card.data.license == "mit"
    metrics = json.loads((adapted_run / "eval" / "metrics.json").read_text())
    accuracy = metrics["test/dna_to_dna/seen/micro/top1/species"]
    result = next(r for r in card.data.eval_results if "dna to dna, seen, micro" in r.metric_name)
    assert result.metric_value == pytest.approx(accuracy, abs=1e-6)
    assert f"| {100 * accuracy:.1f} (" in card.text
    for said in ("invented", "random weights", "AdamW, lr 0.0015", "SHA-256", "LoRA of rank 4"):
        assert said in card.text
    for empty in ("None", "undefined", "???", "{{ ", "ore information needed"):
        assert empty not in card.text, empty


def test_info_says_what_a_model_is(merged, adapted_run):
    for source in (merged, adapted_run / "train"):
        said = command("model", "info", source)
        assert "photos, DNA barcodes and taxonomic names" in said
        assert "bioscan_sample, seed 0" in said
        assert "5-mers at stride 5" in said


@pytest.fixture
def vit_with_adapters(tmp_path):
    """A model of photos on top of pretrained weights in a file."""
    sizes = {"img_size": 32, "embed_dim": 64, "depth": 1, "num_heads": 1}
    base = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    overlay = {"file": str(tmp_path / "base.safetensors"), "num_classes": 0}
    part = {
        "encoder": {
            "_target_": "mmlearn.modules.encoders.TimmViT",
            "model_name": "vit_tiny_patch16_224",
            "projection_dim": 8,
            "model_kwargs": sizes | {"pretrained_cfg_overlay": overlay},
        },
        "lora": {
            "_target_": "peft.LoraConfig",
            "r": 2,
            "target_modules": ["qkv"],
            "modules_to_save": ["head"],
        },
        "head": None,
        "preprocessing": {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
    }
    configuration = {"format_version": 1, "version": "0", "experiment": "x", "seed": 0}
    configuration["modalities"] = {"rgb": part}
    network = Network(configuration["modalities"], pretrained=True)
    for name, weight in network.state_dict().items():
        if "lora" in name or "head" in name:
            weight.normal_(generator=torch.manual_seed(len(name)))
    return Model(configuration, network.state_dict())


def test_adapters_alone(vit_with_adapters, trained, tmp_path):
    model = vit_with_adapters
    folder = model.save_pretrained(tmp_path / "adapters", adapters_only=True)
    assert not any("mlp" in name for name in load_file(folder / "model.safetensors"))
    photos = list(np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8))
    again = load_model(folder, device="cpu")
    np.testing.assert_array_equal(again.encode_image(photos), model.encode_image(photos))

    weights = load_file(tmp_path / "base.safetensors")
    save_file({**weights, "norm.bias": weights["norm.bias"] + 1}, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match=r"only what was trained, .* not those of this model's"):
        load_model(folder)
    with pytest.raises(ValueError, match="on top of random weights"):
        trained.save_pretrained(tmp_path / "none", adapters_only=True)


class Hub:
    """Stands in for the Hugging Face Hub: repositories are folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[tuple[str, str | None]] = []

    def create_repo(self, repo_id, private=None, exist_ok=False):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id, folder_path, commit_message, revision, create_pr):
        target = self.root / repo_id
        target.parent.mkdir(parents=True)
        Path(folder_path).rename(target)
        return type("Commit", (), {"commit_url": f"https://huggingface.co/{repo_id}/commit/1"})

    def snapshot_download(self, repo_id, revision, allow_patterns):
        self.asked.append((repo_id, revision))
        return str(self.root / repo_id)


def test_to_the_hub_and_back(trained, sample_file, tmp_path, monkeypatch):
    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    address = trained.push_to_hub("someone/insects", merge=False)
    assert address == "https://huggingface.co/someone/insects/commit/1"
    assert (
        'load_model("hf-hub:someone/insects")'
        in (tmp_path / "someone/insects/README.md").read_text()
    )
    loaded = load_model("hf-hub:someone/insects@v1", device="cpu")
    assert hub.asked == [("someone/insects", "v1")]
    assert loaded.hash == trained.hash


def test_a_model_of_the_hub_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="not in the cache, and the Hugging Face Hub cannot be reach"):
        load_model("hf-hub:someone/insects")
    with pytest.raises(ValueError, match="write hf-hub:owner/name"):
        load_model("hf-hub:a/b/c")


def test_folders_that_cannot_be_used(merged, trained, tmp_path):
    with pytest.raises(FileExistsError, match="holds files"):
        trained.save_pretrained(merged)
    with pytest.raises(ValueError, match="is what the model is read from"):
        load_model(merged).save_pretrained(merged, force=True)

    def changed(**values: object) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        os.link(merged / "model.safetensors", folder / "model.safetensors")
        config = json.loads((merged / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    with pytest.raises(ValueError, match="in format 2, but this version reads format 1"):
        load_model(changed(format_version=2))
    with pytest.raises(ValueError, match=r"of a model of another project \(bert\)"):
        load_model(changed(model_type="bert"))
    torn = changed()
    (torn / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_model(torn)
    torn = changed()
    (torn / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        load_model(torn)
    (torn / "model.safetensors").write_bytes((merged / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_model(torn)
