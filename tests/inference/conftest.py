"""A tiny trained run, and what `job_type=eval` embeds with it."""

from pathlib import Path

import mmlearn.cli.run
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra_zen import store
from omegaconf import OmegaConf, open_dict


def run_mmlearn(folder: Path, sample: Path, *overrides: str) -> Path:
    """Run `mmlearn_run` in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BIOSCAN_SAMPLE_HDF5", str(sample))
        # The map of the page takes longer than all else, and has tests of its own.
        patched.setattr("projects.bioscan_clip.reports.page.map_plot", lambda _: None)
        with initialize_config_module("mmlearn.conf", version_base=None):
            config = compose(
                "base_config",
                overrides=[
                    "hydra.searchpath=[pkg://projects.bioscan_clip.configs]",
                    "+experiment=bioscan_sample",
                    f"hydra.runtime.output_dir={folder}",
                    "trainer.accelerator=cpu",
                    "trainer.enable_progress_bar=false",
                    "trainer.enable_model_summary=false",
                    *overrides,
                ],
                return_hydra_config=True,
            )
            HydraConfig.instance().set_config(config)
            with open_dict(config):
                del config["hydra"]
            (folder / ".hydra").mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, folder / ".hydra" / "config.yaml")
            mmlearn.cli.run.main(config)
    return folder


@pytest.fixture(scope="session")
def run(sample_file, tmp_path_factory):
    """Folders of a training, `train`, and of its evaluation, `eval`."""
    return train_and_evaluate(tmp_path_factory.mktemp("run"), sample_file, "lora=none")


@pytest.fixture(scope="session")
def adapted_run(sample_file, tmp_path_factory):
    """The same with adapters."""
    return train_and_evaluate(tmp_path_factory.mktemp("adapted"), sample_file, "lora=clibd")


@pytest.fixture(scope="session")
def named_run(sample_file, tmp_path_factory):
    """The same with a photo encoder of another name, which has its own preprocessing."""
    return train_and_evaluate(
        tmp_path_factory.mktemp("named"),
        sample_file,
        "lora=qv",
        "modules/encoders@task.encoders.rgb=photo-encoder-lora",
        "task.encoders.rgb.model_name=vit_small_patch14_reg4_dinov2",
        "task.encoders.rgb.pretrained=false",
        "task.encoders.rgb.projection_dim=128",
        "task.encoders.rgb.model_kwargs={img_size: 28, depth: 1, embed_dim: 32, num_heads: 2}",
    )


def train_and_evaluate(folder: Path, sample_file: Path, *overrides: str) -> Path:
    store.add_to_hydra_store(overwrite_ok=True)
    run_mmlearn(
        folder / "train",
        sample_file,
        *overrides,
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=1",
        "trainer.num_sanity_val_steps=0",
        "dataloader.train.num_workers=0",
        "dataloader.val.num_workers=0",
    )
    run_mmlearn(
        folder / "eval",
        sample_file,
        *overrides,
        "job_type=eval",
        f"resume_from_checkpoint={folder / 'train' / 'checkpoints' / 'best.ckpt'}",
        "dataloader.test.num_workers=0",
    )
    torch.set_grad_enabled(True)
    return folder
