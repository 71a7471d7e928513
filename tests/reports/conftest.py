import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from projects.bioscan_clip.datasets.schema import IDENTIFIERS, NOT_CLASSIFIED, RANKS
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.scoring.evaluation import Evaluation, evaluate
from projects.bioscan_clip.scoring.specimens import Specimens

# Numba reads it when imported; on a busy machine, its threads wait for each other.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

SPLITS = {"keys": "all_keys", "seen": "test_seen", "unseen": "test_unseen"}
DIMENSION = 32


def embed(table: pd.DataFrame, noise: float, gap: int) -> torch.Tensor:
    """Vectors that are the closer, the more ranks two specimens share."""
    vectors = np.random.default_rng(gap).normal(size=(len(table), DIMENSION)) * noise
    vectors += np.random.default_rng([7, gap]).normal(size=DIMENSION)
    for weight, rank in zip((1.5, 1.0, 0.7, 0.5), RANKS, strict=True):
        for name in table[rank].dropna().unique():
            digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
            direction = np.random.default_rng(digest).normal(size=DIMENSION)
            vectors[table[rank].eq(name).fillna(False).to_numpy(bool)] += weight * direction
    return torch.from_numpy(vectors).float()


def read_specimens(path: Path, split: str) -> Specimens:
    with h5py.File(path) as file:
        group = file[split]
        columns = {name: group[name].asstr()[:] for name in (*IDENTIFIERS, *RANKS)}
        photos = [
            row[:length].tobytes()
            for row, length in zip(group["image"][:], group["image_mask"][:], strict=True)
        ]
    table = pd.DataFrame(columns).astype("string").replace(NOT_CLASSIFIED.decode(), pd.NA)
    return specimens_of(table, photos.__getitem__, split)


def specimens_of(table, read_photo=None, split="") -> Specimens:
    """Make up embeddings that fit the names of a table."""
    names = table[list(RANKS)].fillna(NOT_CLASSIFIED.decode())
    codes = [encode_taxa(names[rank].to_numpy(dtype=object).astype(bytes)) for rank in RANKS]
    return Specimens(
        labels=torch.from_numpy(np.stack(codes, axis=1)),
        rgb=embed(table, noise=1.0, gap=1),
        dna=embed(table, noise=0.4, gap=2),
        text=embed(table, noise=0.1, gap=3),
        table=table,
        read_photo=read_photo,
        splits=(split,),
    )


@pytest.fixture(scope="session")
def specimens(sample_file) -> dict[str, Specimens]:
    """Keys and queries of the sample file."""
    return {name: read_specimens(sample_file, split) for name, split in SPLITS.items()}


@pytest.fixture(scope="session")
def evaluation(specimens) -> Evaluation:
    return evaluate(specimens)


@pytest.fixture(scope="session")
def make_specimens() -> Callable[..., Specimens]:
    """Make up embeddings that fit the names of a table."""
    return specimens_of


@pytest.fixture
def about() -> dict:
    """What ``evaluation.json`` holds."""
    return {
        "stage": "test",
        "file": "sample.hdf5",
        "file_size": 4_600_000,
        "splits": {"keys": {"all_keys": 150}, "seen": {"test_seen": 40}},
        "checkpoint": "/runs/a/checkpoints/best.ckpt",
        "seed": 7,
        "experiment": "bioscan_sample_test",
        "search": "exact",
        "restrict_to": None,
        "version": "0.1.0",
    }
