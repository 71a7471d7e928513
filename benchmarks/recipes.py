"""What options of the recipe give: trainings on the sample over a few seeds, clean and corrupted.

Each run is one training of the experiment `bioscan_sample` with small photos, and one test. Runs
that are there are not repeated, so that a benchmark that was stopped continues where it was:
``recipes.py [--out FOLDER] [--seeds N] [OPTION ...]``. docs/recipes.md has the table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from timing import QUICK

from projects.bioscan_clip.datasets.barcodes import CORRUPTIONS
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
"""Columns of the table: which training, and how its test is changed; what matters most first."""

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
HEADLINES: Final = {
    "photo to photo, seen": "rgb_to_rgb/seen",
    "photo to photo, unseen": "rgb_to_rgb/unseen",
    "photo to barcode, seen": "rgb_to_dna/seen",
    "photo to barcode, unseen": "rgb_to_dna/unseen",
    "both to both, seen": "averaged_to_averaged/seen",
    "both to both, unseen": "averaged_to_averaged/unseen",
    "barcode, seen": "dna_to_dna/seen",
    "barcode, unseen": "dna_to_dna/unseen",
    **{
        f"{name}, {split}": f"dna_{name}_to_dna/{split}"
        for name in CORRUPTIONS
        for split in ("seen", "unseen")
    },
}
"""Rows of the table: species, micro, top 1, of the test."""


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


def cell(values: list[float]) -> str:
    percent = [100 * value for value in values]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{statistics.mean(percent):.1f}{spread}"


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
    table = Table("species, top 1, in percent", *names)
    for label, name in HEADLINES.items():
        query, split = name.split("/")
        values = [
            [one[f"test/{query}/{split}/micro/top1/species"] for one in found[option]]
            for option in names
        ]
        table.add_row(label, *map(cell, values))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
