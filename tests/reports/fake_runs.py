"""Folders as evaluated runs leave them, with accuracies drawn at random."""

import json
from itertools import product
from pathlib import Path

import numpy as np

from projects.bioscan_clip.datasets.schema import RANKS

CELLS = list(product(RANKS, ("micro", "macro"), ("seen", "unseen")))
SEEDS = (0, 42, 1337)
SPLITS_1M = {
    "keys": {"all_keys": 21118},
    "seen": {"test_seen": 100},
    "unseen": {"test_unseen": 80},
}


def accuracies(seed: int, pair: str = "rgb_to_dna", stage: str = "test") -> dict[str, float]:
    values = np.random.default_rng(seed).uniform(size=len(CELLS))
    names = [f"{stage}/{pair}/{split}/{average}/top1/{rank}" for rank, average, split in CELLS]
    # Other k and pairs must not be taken for it.
    decoys = {name.replace("top1", "top3"): 1.0 for name in names}
    return dict(zip(names, values.tolist(), strict=True)) | decoys


def write_run(folder: Path, metrics: dict, config: str = "", **evaluation) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if config:
        (folder / ".hydra" / "config.yaml").write_text(config)
    if evaluation:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def write_1m(folder: Path, seed: int | None, **changed) -> Path:
    """Write a run on BIOSCAN-1M."""
    told = {"stage": "test", "file": "1m.hdf5", "splits": SPLITS_1M, "experiment": "e"}
    return write_run(folder, accuracies(seed or 0), **told | {"seed": seed} | changed)


CONFIG = """
seed: {seed}
experiment_name: sample
resume_from_checkpoint: {checkpoint}
datasets:
  {stage}:
    keys_split: {{split: all_keys, path_variable: {variable}, path_to_hdf5_file: "${{oc.env:X}}"}}
    seen_split: {{split: {stage}_seen, path_variable: {variable}}}
    unseen_split: {{split: {stage}_unseen, path_variable: {variable}}}
"""


def config(seed: int, stage: str = "test", checkpoint="null", variable="BIOSCAN_1M_HDF5") -> str:
    return CONFIG.format(seed=seed, stage=stage, checkpoint=checkpoint, variable=variable)


def write_sweep(folder: Path) -> Path:
    """Write three seeds as `--multirun` leaves them."""
    for job, seed in enumerate(SEEDS):
        write_1m(folder / str(job), seed)
    return folder
