"""A smaller file with the structure of a large one: choosing specimens, and writing them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.data_tools.repack import copy_rows, own_split
from projects.bioscan_clip.datasets.hdf5 import damage_named, open_file
from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Roster:
    """The specimens of a file, each counted once.

    Attributes
    ----------
    splits : tuple of str
        Groups of the file.
    rows : tuple of numpy.ndarray
        For each group, the specimen in each of its rows, int64, shape ``(rows,)``.
    membership : numpy.ndarray
        int64, shape ``(S,)``; bit `i` is set where a specimen is in group `i`.
    species : numpy.ndarray
        int64, shape ``(S,)``; codes of species, -1 where unknown.
    """

    splits: tuple[str, ...]
    rows: tuple[IntArray, ...]
    membership: IntArray
    species: IntArray


def write_subset(path: Path, out: Path, n_specimens: int, seed: int = 0) -> int:
    """Write some specimens of a file to a smaller one.

    Every split of the file stays, and a specimen that is kept is kept in all its splits, so that
    splits that are unions of others stay so. See :func:`choose_specimens` for which are kept. A
    call that was cut off can be repeated to resume.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file to read.
    out : pathlib.Path
        The HDF5 file to write.
    n_specimens : int
        Number of specimens to keep.
    seed : int, default=0
        The same file, number and seed give the same specimens.

    Returns
    -------
    int
        Number of specimens kept.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, lacks identifiers or species, or `n_specimens` is too small or too
        large for it; or `out` was begun from another one.
    OSError
        If `out` cannot be written.
    """
    with damage_named(path), open_file(path) as file:
        roster = read_roster(file)
    kept = choose_specimens(roster.membership, roster.species, roster.splits, n_specimens, seed)
    rows = {
        split: np.flatnonzero(kept[specimens])
        for split, specimens in zip(roster.splits, roster.rows, strict=True)
    }
    copy_rows(path, out, f"subset {n_specimens} {seed}", rows)
    return int(kept.sum())


def read_roster(file: h5py.File) -> Roster:
    """Find the specimens of a file by their `sampleid`, or by `processid` where that is missing.

    Parameters
    ----------
    file : h5py.File
        An open file.

    Returns
    -------
    Roster
        Its specimens, in the order in which they are met.

    Raises
    ------
    ValueError
        If a split lies in another file, lacks identifiers or species, or a specimen has no
        identifier.
    """
    groups = {split: own_split(file, split) for split in file}
    column = _identifier(file.filename, groups)
    codes = [encode_column(group[column]) for group in groups.values()]
    for split, of_split in zip(groups, codes, strict=True):
        if (of_split == UNKNOWN).any():
            raise ValueError(
                f"{file.filename}, split {split}, row {np.argmin(of_split)}: {column} is empty, so "
                "the specimen cannot be found in other splits."
            )
    numbers, distinct = pd.factorize(np.concatenate(codes))
    ends = np.cumsum([len(of_split) for of_split in codes])
    rows = tuple(np.split(numbers, ends[:-1]))
    membership = np.zeros(len(distinct), dtype=np.int64)
    species = np.full(len(distinct), UNKNOWN)
    for bit, (group, specimens) in enumerate(zip(groups.values(), rows, strict=True)):
        membership[specimens] |= 1 << bit
        species[specimens] = encode_column(group[RANKS[-1]])
    return Roster(tuple(groups), rows, membership, species)


def _identifier(path: str, groups: Mapping[str, h5py.Group]) -> str:
    for split, group in groups.items():
        if RANKS[-1] not in group:
            raise ValueError(f"{path}, split {split} lacks {RANKS[-1]}.")
    for column in IDENTIFIERS[:2]:
        if all(column in group for group in groups.values()):
            return column
    raise ValueError(
        f"{path} has neither {IDENTIFIERS[0]} nor {IDENTIFIERS[1]} in every split, so "
        "specimens cannot be told apart."
    )


def choose_specimens(
    membership: IntArray, species: IntArray, splits: tuple[str, ...], n_specimens: int, seed: int
) -> BoolArray:
    """Choose whole species, and specimens without a species label one by one.

    - Species fall into kinds: seen ones, unseen ones for validation and for test, and the others,
      by the splits they are in and by whether they are known. They are drawn at random, from all
      kinds alike, so that the share of each kind among the specimens stays.
    - Of each kind, a few species that together are in all its splits are sure to be chosen.
    - Species are kept whole, but for the last one that is drawn, and those that are there for their
      splits only. A species that is thinned keeps a specimen of every set of splits that its
      specimens are in: if it has keys, it keeps a key, and if it is trained on, it still is.

    So no more than `n_specimens` are kept, and fewer only where what is left, a handful, is too
    little for one more species.

    Parameters
    ----------
    membership : numpy.ndarray
        int64, shape ``(S,)``; bit `i` is set where a specimen is in split `i`.
    species : numpy.ndarray
        int64, shape ``(S,)``; codes of species, -1 where unknown.
    splits : tuple of str
        Names of the splits.
    n_specimens : int
        How many to keep.
    seed : int
        The same arguments give the same specimens.

    Returns
    -------
    numpy.ndarray
        bool, shape ``(S,)``: which specimens are kept.

    Raises
    ------
    ValueError
        If there are fewer specimens, or so few cannot fill every split.
    """
    if n_specimens > len(species):
        raise ValueError(
            f"The file holds {len(species)} specimens, so {n_specimens} cannot be chosen."
        )
    rng = np.random.default_rng(seed)
    # A specimen without a species label counts as a species of its own.
    alone = UNKNOWN - 1 - np.arange(len(species))
    taxa = pd.factorize(np.where(species == UNKNOWN, alone, species))[0]
    is_core, position = _order_to_keep(taxa, membership, rng)
    sizes, cores = np.bincount(taxa), np.bincount(taxa[is_core])
    ranges = np.zeros(len(sizes), dtype=np.int64)
    np.bitwise_or.at(ranges, taxa, membership)
    kind = _kinds(ranges, np.isin(np.arange(len(sizes)), taxa[species == UNKNOWN]), splits)

    drawn, taken = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=np.int64)
    for each in np.unique(kind):
        members = rng.permutation(np.flatnonzero(kind == each))
        cover = _cover(members, ranges, cores)
        taken[cover] = cores[cover]
        members = np.concatenate([cover, members[~np.isin(members, cover)]])
        # Where in its kind a species comes, from 0 to 1, to draw from all kinds alike.
        drawn[members] = (np.cumsum(sizes[members]) - sizes[members] / 2) / sizes[members].sum()
    left = n_specimens - int(taken.sum())
    if left < 0:
        raise ValueError(
            f"{n_specimens} specimens cannot fill every split of the file and keep keys and "
            f"training specimens of their species. Choose at least {taken.sum()}."
        )
    for one in np.argsort(drawn, kind="stable").tolist():
        more = min(int(sizes[one] - taken[one]), left)
        if taken[one] + more >= cores[one]:
            taken[one] += more
            left -= more
    kept: BoolArray = position < taken[taxa]
    return kept


def _order_to_keep(
    taxa: IntArray, membership: IntArray, rng: np.random.Generator
) -> tuple[BoolArray, IntArray]:
    """Return which specimens are the core of their species, and the rank of each within it.

    A random specimen of every set of splits is core, and comes before the others.
    """
    chance = rng.permutation(len(taxa))
    order = np.lexsort((chance, membership, taxa))
    is_core = np.ones(len(taxa), dtype=np.bool_)
    is_core[order[1:]] = (np.diff(taxa[order]) != 0) | (np.diff(membership[order]) != 0)
    order = np.lexsort((chance, ~is_core, taxa))
    sizes = np.bincount(taxa)
    position = np.empty(len(taxa), dtype=np.int64)
    position[order] = np.arange(len(taxa)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return is_core, position


def _kinds(ranges: IntArray, is_unlabelled: BoolArray, splits: tuple[str, ...]) -> IntArray:
    """Return a number for each species that tells kinds of species apart.

    Unseen ones for validation and for test are kinds of their own, so that neither is forgotten.
    """

    def is_in(start: str) -> BoolArray:
        """Return which species are in a split whose name begins so."""
        bits = sum(1 << i for i, split in enumerate(splits) if split.startswith(start))
        found: BoolArray = (ranges & bits) != 0
        return found

    is_val, is_test = is_in("val_unseen"), is_in("test_unseen")
    is_seen = is_in("val_seen") | is_in("test_seen") | is_in("train_seen") | is_in("seen_keys")
    kinds: IntArray = np.select(
        [is_unlabelled, is_val & is_test, is_val, is_test, is_in("unseen_keys"), is_seen],
        [2 * ranges + 1, -1, -2, -3, -4, -5],
        default=2 * ranges,
    )
    return kinds


def _cover(members: IntArray, ranges: IntArray, cores: IntArray) -> IntArray:
    """Return a few species that together are in all the splits that any of `members` is in."""
    members = members[np.argsort(cores[members], kind="stable")]
    distinct, first = np.unique(ranges[members], return_index=True)
    candidates = dict(zip(distinct.tolist(), members[first].tolist(), strict=True))
    missing = int(np.bitwise_or.reduce(distinct))
    cover = []
    while missing:
        best = max(candidates, key=lambda splits: (splits & missing).bit_count())
        cover.append(candidates[best])
        missing &= ~best
    return np.array(cover, dtype=np.int64)
