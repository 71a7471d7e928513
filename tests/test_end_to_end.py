"""The commands of the README, on a small sample file, in processes of their own."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [str(Path(sys.executable).parent / "mmlearn_run")]
SEARCH_PATH = "hydra.searchpath=[pkg://projects.bioscan_clip.configs]"
MULTIRUN = ["--multirun", "hydra/launcher=basic"]
CLUSTER_PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
STRATEGY = (
    CLUSTER_PAGE.read_text("utf-8").partition("let DDP reuse buffers by\n`'")[2].split("'")[0]
)
QUICK = ["dataloader.train.batch_size=50", "trainer.log_every_n_steps=1"]


class Runs:
    """Runs `mmlearn_run` in a folder that knows nothing of the project."""

    def __init__(self, folder: Path, sample_file: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "BIOSCAN_SAMPLE_HDF5": str(sample_file),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        for variable in ("SLURM_JOB_ID", "USER", "WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
            self.environment.pop(variable, None)

    def __call__(self, *overrides: str, multirun: bool = False, ok: bool = True) -> str:
        result = subprocess.run(
            [*PROGRAM, *MULTIRUN * multirun, SEARCH_PATH, "+experiment=bioscan_sample", *overrides],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        assert (result.returncode == 0) == ok, result.stdout[-5000:]
        return result.stdout

    def metrics(self, run: str) -> dict[str, float]:
        return json.loads((self.folder / run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sample_file) -> Runs:
    return Runs(tmp_path_factory.mktemp("anywhere"), sample_file)


@pytest.fixture(scope="module")
def sweep(runs) -> list[str]:
    """Train two seeds through one `--multirun`."""
    runs(
        "seed=0,42",
        "trainer.max_epochs=2",
        "hydra.sweep.dir=sweep",
        "hydra.sweep.subdir=${seed}",
        *QUICK,
        multirun=True,
    )
    return [f"sweep/{seed}" for seed in (0, 42)]


@pytest.fixture(scope="module")
def scores(runs, sweep) -> dict[str, float]:
    """Return what the first seed's best checkpoint scores, in one process and one batch."""
    runs(
        "job_type=eval",
        f"resume_from_checkpoint={sweep[0]}/checkpoints/best.ckpt",
        "dataloader.test.batch_size=7,400",
        "dataloader.test.num_workers=0",
        "task.evaluation_tasks.tax_cls.task.report=light",
        "hydra.sweep.dir=scores",
        "hydra.sweep.subdir=${dataloader.test.batch_size}",
        multirun=True,
    )
    return runs.metrics("scores/400")


def losses(folder: Path) -> list[float]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_sweep_trains_every_seed(runs, sweep):
    for run in sweep:
        assert (runs.folder / run / "checkpoints" / "best.ckpt").is_file()
        assert (runs.folder / run / "checkpoints" / "last.ckpt").is_file()
        assert all(name.startswith("val/") for name in runs.metrics(run))
    first_losses = {losses(runs.folder / run)[0] for run in sweep}
    assert len(first_losses) == 2


def test_loss_starts_near_chance_and_falls(runs, sweep):
    """Chance is ln(batch size) for each of three pairs of modalities."""
    for run in sweep:
        history = losses(runs.folder / run)
        assert history[0] == pytest.approx(3 * math.log(50), rel=0.15)
        assert history[-1] < 0.95 * history[0]


def test_same_checkpoint_gives_same_metrics_at_any_batch_size(runs, scores):
    assert all(name.startswith("test/") for name in scores)
    assert runs.metrics("scores/7") == pytest.approx(scores, abs=1e-6)


def test_two_processes_score_as_one(runs, sweep, scores):
    """Over gloo on the loopback, with workers; 2 processes repeat specimens to have as many."""
    runs(
        "job_type=eval",
        f"resume_from_checkpoint={sweep[0]}/checkpoints/best.ckpt",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "hydra.run.dir=two",
    )
    assert runs.metrics("two") == pytest.approx(scores, abs=1e-6)


def test_training_resumes_in_two_processes_with_every_option(runs, sweep):
    """LoRA as in the paper, photos and barcodes only, label-aware loss, DDP, then resumed.

    Also Weights & Biases, as the full-size experiments have it: without a login it stays offline.
    """
    options = (
        "lora=clibd",
        "modalities=image_dna",
        "modules/losses@task.loss=LabelAwareContrastiveLoss",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        STRATEGY,
        "task.lr_scheduler.scheduler.total_steps=20",
        *QUICK,
    )
    wandb = "+trainer/logger@trainer.logger.wandb=OfflineFallbackWandbLogger"
    output = runs(*options, wandb, "trainer.max_epochs=1", "hydra.run.dir=first")
    assert output.count("no login found, so this run is kept offline") == 1
    last = "resume_from_checkpoint=first/checkpoints/last.ckpt"
    runs(*options, "trainer.max_epochs=2", "hydra.run.dir=second", last)
    assert not any("text" in name for name in runs.metrics("second"))
    with (runs.folder / "second" / "logs" / "metrics.csv").open() as file:
        assert {row["epoch"] for row in csv.DictReader(file)} - {""} == {"1"}


def test_missing_file_ends_with_a_sentence(runs):
    output = runs("datasets.train.path_to_hdf5_file=none.hdf5", ok=False)
    assert "There is no data file none.hdf5" in output
