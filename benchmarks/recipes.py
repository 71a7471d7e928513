"""What options of the recipe give: trainings on the sample over a few seeds, clean and corrupted.

Each run is one training of the experiment `bioscan_sample` with small photos, and one test. Runs
that are there are not repeated, so that a benchmark that was stopped continues where it was:
``recipes.py [--out FOLDER] [--seeds N] [OPTION ...]``. docs/recipes.md has the tables.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from timing import QUICK

from projects.bioscan_clip.sample.file import write_sample

LOSS: Final = "modules/losses@task.loss"
IN_HALF: Final = "trainer.precision=bf16-mixed"
TRAININGS: Final[dict[str, list[str]]] = {
    "default": [],
    "placed": ["datasets.train.barcode_augmentation=placed"],
    "hierarchical": [f"{LOSS}=HierarchicalContrastiveLoss"],
    "label-aware": [f"{LOSS}=LabelAwareContrastiveLoss"],
    "siglip": [f"{LOSS}=siglip", "task.init_logit_scale=10"],
    "shifted": ["datasets.train.barcode_augmentation=shifted"],
    "half-patches": ["+task.encoders.rgb.model_kwargs.patch_drop_rate=0.5"],
    "adapters": ["lora=qv"],  # on top of random weights
    "adapters-half": ["lora=qv", IN_HALF, "task.frozen_in_half=true"],
}
OPTIONS: Final[dict[str, tuple[str, list[str]]]] = {
    "default": ("default", []),
    "robust": ("default", ["recipe=robust"]),  # is trained alike
    "tested-half": ("default", [IN_HALF]),
    **{name: (name, []) for name in TRAININGS if name != "default"},
}
"""Rows of the tables: which training, and how its test is changed; what matters most first."""

PHOTOS: Final = "task.encoders.rgb.model_kwargs.img_size=48"  # a third of the time of 80 pixels
TRAINING: Final = [
    f"trainer.max_epochs={1 if QUICK else 12}",
    "trainer.limit_val_batches=0",  # the last checkpoint is scored, not the best
    "trainer.num_sanity_val_steps=0",
]
_TASK: Final = "task.evaluation_tasks.tax_cls.task"
TEST: Final = [f"{_TASK}.report=off", f"{_TASK}.corruption=all"]
DATA: Final = "sample.hdf5"
MMLEARN_RUN: Final = str(Path(sys.executable).with_name("mmlearn_run"))
SIZES: Final = {"n_species": 24, "n_specimens": 400} if QUICK else {}
TABLES: Final = {
    "queries to keys": {
        "rgb_to_rgb": "photo to photo",
        "rgb_to_dna": "photo to barcode",
        "averaged_to_averaged": "both to both",
        "dna_to_dna": "barcode to barcode",
    },
    "damaged barcodes to barcodes": {
        "dna_bases_1_to_dna": "1% false bases",
        "dna_bases_5_to_dna": "5% false",
        "dna_bases_10_to_dna": "10% false",
        "dna_n_runs_to_dna": "20% N in runs",
        "dna_cut_ends_to_dna": "ends cut",
        "dna_shifted_to_dna": "begin elsewhere",
    },
}
"""Tables, and the columns of each by their name in ``metrics.json``: species, micro, top 1."""


def run(out: Path, name: str, seed: int) -> dict[str, float]:
    """Train and test, as far as that is not done; return the test's numbers."""
    training, test = OPTIONS[name]
    train, evaluation = out / training / f"{seed}" / "train", out / name / f"{seed}" / "eval"

    def start(job: str, folder: Path, *overrides: str) -> None:
        options = [f"job_type={job}", f"seed={seed}", f"hydra.run.dir={folder}", PHOTOS]
        command = [MMLEARN_RUN, "+experiment=bioscan_sample", *options]
        subprocess.run(
            [*command, *TRAININGS[training], *overrides],
            env=os.environ | {"BIOSCAN_SAMPLE_HDF5": str(out / DATA)},
            stdout=sys.stderr,
            check=True,
        )

    trained, metrics = train.with_name("trained"), evaluation / "metrics.json"
    if not metrics.exists():
        if not trained.exists():
            start("train", train, *TRAINING)
            trained.touch()
        checkpoint = f"resume_from_checkpoint={train}/checkpoints/last.ckpt"
        start("eval", evaluation, *TEST, *test, checkpoint)
    values: dict[str, float] = json.loads(metrics.read_text("utf-8"))
    return values


def cell(runs: Sequence[Mapping[str, float]], pair: str) -> str:
    """Return accuracies of seen and of unseen species in percent, over seeds."""
    parts = []
    for split in ("seen", "unseen"):
        percent = [100 * run[f"test/{pair}/{split}/micro/top1/species"] for run in runs]
        spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
        parts.append(f"{statistics.mean(percent):.1f}{spread}")
    return " / ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("options", nargs="*", help=", ".join(OPTIONS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=1 if QUICK else 3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    names = arguments.options or (["default"] if QUICK else list(OPTIONS))
    with tempfile.TemporaryDirectory() as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        if not (out / DATA).exists():
            write_sample(out / DATA, **SIZES)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for seed in range(arguments.seeds):
            for name in names:
                found[name].append(run(out, name, seed))
    for title, columns in TABLES.items():
        rows = {
            name: {heading: cell(runs, pair) for pair, heading in columns.items()}
            for name, runs in found.items()
        }
        print(pd.DataFrame.from_dict(rows, orient="index").rename_axis(title).to_markdown(), "\n")


if __name__ == "__main__":
    main()
