"""Exported and imported models are built as they say themselves, whatever the experiment says."""

import json
from pathlib import Path

import h5py
import mmlearn.cli.run
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra_zen import store
from omegaconf import DictConfig, open_dict

from projects.bioscan_clip.configs.checks import CheckOptions
from projects.bioscan_clip.inference import load_model
from tests.encoders.clibd_layout import SIZE, Clibd, seeded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model of CLIBD's, whose photos are normalised in another way."""
    with seeded():
        torch.save(Clibd().checkpoint(), tmp_path / "best.pth")
    folder = load_model(tmp_path / "best.pth", "cpu").save_pretrained(tmp_path / "clibd")
    config = json.loads((folder / "config.json").read_text())
    config["modalities"]["rgb"]["preprocessing"] |= {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def checked(out: Path, *overrides: str) -> DictConfig:
    store.add_to_hydra_store(overwrite_ok=True)
    with initialize_config_module("mmlearn.conf", version_base=None):
        config = compose(
            "base_config",
            overrides=[
                "hydra.searchpath=[pkg://projects.bioscan_clip.configs]",
                "+experiment=bioscan_1m",
                f"hydra.run.dir={out}",
                f"hydra.runtime.output_dir={out}",
                "trainer.accelerator=cpu",
                "trainer.precision=32",
                "trainer.enable_progress_bar=false",
                "dataloader.test.num_workers=0",
                "task.evaluation_tasks.tax_cls.task.linear_head=false",
                "~trainer.logger.wandb",
                *overrides,
            ],
            return_hydra_config=True,
        )
    HydraConfig.instance().set_config(config)
    CheckOptions().on_run_start(config)
    return config


def test_an_imported_model_is_scored(
    folder: Path, sample_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIOSCAN_1M_HDF5", str(sample_file))
    out = tmp_path / "eval"
    config = checked(out, "job_type=eval", f"resume_from_checkpoint={folder}")
    assert {split.image_size for split in config.datasets.test.values()} == {SIZE}
    with open_dict(config):
        del config["hydra"]
    mmlearn.cli.run.main(config)
    torch.set_grad_enabled(True)

    model = load_model(folder, "cpu")
    with h5py.File(sample_file) as file, h5py.File(out / "embeddings.hdf5") as saved:
        split = file["test_seen"]
        lengths = split["image_mask"][:]
        photos = [row[:n].tobytes() for row, n in zip(split["image"], lengths, strict=True)]
        barcodes = [barcode.decode() for barcode in split["barcode"]]
        found = saved["test_seen"]
        for feature, expected in (
            ("image", model.encode_image(photos)),
            ("dna", model.encode_dna(barcodes, place=False)),
        ):
            np.testing.assert_allclose(found[f"encoded_{feature}_feature"], expected, atol=1e-6)
    about = json.loads((out / "evaluation.json").read_text())
    assert (about["experiment"], about["seed"]) == ("CLIBD", None)


def test_a_model_of_some_modalities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOSCAN_1M_HDF5", "none.hdf5")
    with seeded():
        torch.save(Clibd(text=False).checkpoint(), tmp_path / "best.pth")
    config = checked(tmp_path, "job_type=eval", f"resume_from_checkpoint={tmp_path}/best.pth")
    assert config.task.encoders.text is None
    assert config.task.heads.text is None


def test_a_model_is_no_training_to_resume(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot be resumed; job_type=eval scores it"):
        checked(tmp_path, f"resume_from_checkpoint={folder}")
    (folder / "config.json").write_text("{}")
    with pytest.raises(SystemExit, match="of a model of another project"):
        checked(tmp_path, "job_type=eval", f"resume_from_checkpoint={folder}")
