"""The partition of specimens into splits that CLIBD trains and evaluates on."""

from typing import Final

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED

HEAD_SIZE: Final = 10
"""Specimens from which a species is well enough sampled to be trained on and evaluated as seen."""

UNSEEN_SHARE: Final = 0.2
"""Share of the well-sampled species that training never sees."""

UNLABELLED: Final = "no_split"
SINGLETON: Final = "single_species"

BASE_SPLITS: Final = (
    UNLABELLED,
    SINGLETON,
    "train_seen",
    "val_seen",
    "test_seen",
    "seen_keys",
    "val_unseen",
    "val_unseen_keys",
    "test_unseen",
    "test_unseen_keys",
)
"""Where a specimen can be; every specimen is in exactly one of them."""

UNIONS: Final = {
    "no_split": (UNLABELLED, SINGLETON),
    "no_split_and_seen_train": (UNLABELLED, SINGLETON, "train_seen"),
    "all_keys": ("seen_keys", "val_unseen_keys", "test_unseen_keys"),
}
"""Splits of the file that hold the specimens of several base splits."""


def partition(species: npt.NDArray[np.bytes_], seed: int) -> npt.NDArray[np.str_]:
    """Assign each specimen to a base split.

    - Specimens without a species label are ``no_split``; species with one specimen are
      ``single_species``. Both are for pretraining only.
    - Of the species with at least 10 specimens, 80 % are seen: 70 % of a species' specimens are
      ``train_seen``, and 10 % each (at least one) ``val_seen``, ``test_seen`` and ``seen_keys``.
    - The other 20 %, and all species with 2 to 9 specimens, which are too few to be learnt and
      judged alike, are unseen. Half of these species are for validation, half for test. Half of a
      species' specimens, rounded down, are queries (``val_unseen``, ``test_unseen``), the others
      keys (``val_unseen_keys``, ``test_unseen_keys``).

    Parameters
    ----------
    species : numpy.ndarray
        Species labels, bytes, shape ``(N,)``; empty or ``b"not_classified"`` where unknown.
    seed : int
        The same labels and seed give the same partition.

    Returns
    -------
    numpy.ndarray
        Names out of ``BASE_SPLITS``, str, shape ``(N,)``.
    """
    rng = np.random.default_rng(seed)
    splits = np.full(len(species), UNLABELLED, dtype=f"U{max(map(len, BASE_SPLITS))}")
    labelled = np.flatnonzero((species != NOT_CLASSIFIED) & (species != b""))
    taxa, counts = np.unique(species[labelled], return_inverse=True, return_counts=True)[1:]
    size, position = counts[taxa], _shuffled_positions(taxa, counts, rng)
    role = _draw_roles(counts, rng)[taxa]

    tenth = np.maximum(1, np.round(size / 10).astype(np.int64))
    names = np.select(
        [
            role == SINGLETON,
            (role == "seen") & (position < tenth),
            (role == "seen") & (position < 2 * tenth),
            (role == "seen") & (position < 3 * tenth),
            role == "seen",
            position < size // 2,
        ],
        [SINGLETON, "seen_keys", "val_seen", "test_seen", "train_seen", role],
        default=np.char.add(role, "_keys"),
    )
    splits[labelled] = names
    return splits


def rows_of_splits(splits: npt.NDArray[np.str_]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the specimens of every split of a BIOSCAN-1M file.

    Parameters
    ----------
    splits : numpy.ndarray
        Base split of each specimen, str, shape ``(N,)``; see :func:`partition`.

    Returns
    -------
    dict of str to numpy.ndarray
        For each split, ascending positions among the specimens, int64.
    """
    members = {name: (name,) for name in BASE_SPLITS} | UNIONS
    return {name: np.flatnonzero(np.isin(splits, parts)) for name, parts in members.items()}


def _shuffled_positions(
    taxa: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the number of each specimen in its species, counted from 0 in random order."""
    shuffled = rng.permutation(len(taxa))
    grouped = shuffled[np.argsort(taxa[shuffled], kind="stable")]
    first = np.cumsum(counts) - counts
    positions = np.empty(len(taxa), dtype=np.int64)
    positions[grouped] = np.arange(len(taxa)) - np.repeat(first, counts)
    return positions


def _draw_roles(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.str_]:
    """Decide for each species whether it is a singleton, seen, or unseen in validation or test."""
    roles = np.full(len(counts), "seen", dtype="U16")
    roles[counts == 1] = SINGLETON
    heads = rng.permutation(np.flatnonzero(counts >= HEAD_SIZE))
    unseen_heads = heads[: round(UNSEEN_SHARE * len(heads))]
    tails = np.flatnonzero((counts > 1) & (counts < HEAD_SIZE))
    unseen = rng.permutation(np.concatenate([unseen_heads, tails]))
    # Dealt out by falling size, so that validation and test are equally large.
    unseen = unseen[np.argsort(-counts[unseen], kind="stable")]
    roles[unseen[0::2]] = "val_unseen"
    roles[unseen[1::2]] = "test_unseen"
    return roles
