"""Tuning and scoring of zero-shot learning at INSECT's size, of invented embeddings.

*Usual* factorises one matrix of 500 x 500 for each class and choice of hyperparameters, as the
method is written down; a few of them are timed, and multiplied.
"""

import resource

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import cho_factor, cho_solve
from timing import QUICK, shortest

from projects.bioscan_clip.scoring.bzsl import GRID, zero_shot

SPECIES, UNSEEN, PHOTOS = (60, 10, 1_000) if QUICK else (1_213, 121, 21_212)
COMPONENTS = 500
DIMENSIONS = {"this model's embeddings": 768, "ResNet-101": 2_048}


def density(queries: np.ndarray) -> np.ndarray:
    """Return what a Student t density needs of each query (Q, d): its distance to one class."""
    factor = cho_factor(np.eye(COMPONENTS) + 0.1)
    return np.einsum("qd,dq->q", queries, cho_solve(factor, queries.T))


def main() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(SPECIES, size=PHOTOS))
    labels[:SPECIES] = np.arange(SPECIES)
    is_unseen = labels >= SPECIES - UNSEEN
    part = rng.random(PHOTOS)
    val = (labels >= SPECIES - 2 * UNSEEN) & ~is_unseen
    trainval, test_seen = ~is_unseen & (part < 0.8), ~is_unseen & (part >= 0.8)
    rows = {
        "trainval": trainval,
        "train": trainval & ~val,
        "val": trainval & val,
        "test_seen": test_seen & np.isin(labels, labels[trainval]),
        "test_unseen": is_unseen,
    }
    splits = {name: np.flatnonzero(chosen) for name, chosen in rows.items()}
    table = Table("embeddings", "dimensions", "s", title=f"{PHOTOS:,} photos, {len(GRID)} choices")
    queries = rng.normal(size=(int(rows["val"].sum() + rows["train"].sum() // 5), COMPONENTS))
    usual = shortest(lambda: density(queries), 3) * SPECIES * len(GRID)
    table.add_row("usual", f"{COMPONENTS}", f"{usual:,.0f}")
    for name, dimensions in DIMENSIONS.items():
        side = rng.normal(size=(SPECIES, 768))
        photos = rng.normal(size=(SPECIES, dimensions))[labels]
        photos += rng.normal(size=photos.shape)
        took = shortest(lambda p=photos, s=side: zero_shot(p, s, labels, splits), 1)
        table.add_row(name, f"{dimensions:,}", f"{took:,.0f}")
    Console().print(table)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory at most")


if __name__ == "__main__":
    main()
