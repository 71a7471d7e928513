"""A smaller file with the structure of a large one."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.data_tools.choosing import choose_specimens
from projects.bioscan_clip.data_tools.reading import check_distinct, identity_of, split_sources
from projects.bioscan_clip.data_tools.writing import write_file
from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.datasets.schema import IDENTIFIERS, RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

IntArray = npt.NDArray[np.int64]


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
    call that was cut off can be repeated to go on.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file to read.
    out : pathlib.Path
        The HDF5 file to write; photos are stored in rows.
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
        large for it; or `out` is the same file, or was begun from another one.
    OSError
        If `out` cannot be written.
    """
    check_distinct(path, out)
    with open_file(path) as file:
        roster = read_roster(file)
    kept = choose_specimens(roster.membership, roster.species, roster.splits, n_specimens, seed)
    rows = {
        split: np.flatnonzero(kept[specimens])
        for split, specimens in zip(roster.splits, roster.rows, strict=True)
    }
    with split_sources(path, rows) as sources:
        write_file(out, sources, identity=f"subset {n_specimens} {seed} {identity_of(path)}")
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
        If a split lacks identifiers or species, or a specimen has no identifier.
    """
    column = _identifier(file)
    codes = [encode_column(group[column]) for group in file.values()]
    for split, of_split in zip(file, codes, strict=True):
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
    for bit, (group, specimens) in enumerate(zip(file.values(), rows, strict=True)):
        membership[specimens] |= 1 << bit
        species[specimens] = encode_column(group[RANKS[-1]])
    return Roster(tuple(file), rows, membership, species)


def _identifier(file: h5py.File) -> str:
    for split, group in file.items():
        if RANKS[-1] not in group:
            raise ValueError(f"{file.filename}, split {split} lacks {RANKS[-1]}.")
    for column in IDENTIFIERS[:2]:
        if all(column in group for group in file.values()):
            return column
    raise ValueError(
        f"{file.filename} has neither {IDENTIFIERS[0]} nor {IDENTIFIERS[1]} in every split, so "
        "specimens cannot be told apart."
    )
