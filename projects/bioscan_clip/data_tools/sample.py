"""Write a small synthetic file in the layout of BIOSCAN-1M."""

import os
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import numpy.typing as npt
from rich.progress import track

from projects.bioscan_clip.data_tools.barcodes import sequence_specimen
from projects.bioscan_clip.data_tools.names import tokenize_names
from projects.bioscan_clip.data_tools.photos import photograph_from_traits
from projects.bioscan_clip.data_tools.phylogeny import Taxon, grow_species
from projects.bioscan_clip.data_tools.splits import partition
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    IMAGE,
    IMAGE_LENGTH,
    NOT_CLASSIFIED,
    RANKS,
    SPLITS_1M,
    TEXT_IDS,
    TEXT_MASK,
    TEXT_TYPE_IDS,
)

_FEWEST_SPECIES: Final = 8
_FEWEST_SPECIMENS_PER_SPECIES: Final = 8

# Share of specimens that are labelled down to each number of ranks: four, three, two or one.
_LABEL_DEPTHS: Final = {4: 0.75, 3: 0.10, 2: 0.10, 1: 0.05}

Columns = dict[str, npt.NDArray]


def write_sample(
    path: Path, n_species: int = 160, n_specimens: int = 4000, seed: int = 0
) -> None:
    """Write invented insects with photos, barcodes and names that descend from one tree.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file, replaced if it exists, and only once it is complete.
    n_species : int, default=160
        Number of species, at least 8.
    n_specimens : int, default=4000
        Number of specimens, at least 8 times the species.
    seed : int, default=0
        The same arguments give the same bytes.

    Raises
    ------
    ValueError
        If there are too few species, or too few specimens to fill every split.
    """
    if n_species < _FEWEST_SPECIES:
        raise ValueError(f"A sample needs at least {_FEWEST_SPECIES} species, not {n_species}.")
    if n_specimens < _FEWEST_SPECIMENS_PER_SPECIES * n_species:
        raise ValueError(
            f"A sample of {n_species} species needs at least "
            f"{_FEWEST_SPECIMENS_PER_SPECIES * n_species} specimens, not {n_specimens}."
        )
    rng = np.random.default_rng(seed)
    species = grow_species(n_species, rng)
    owners = np.repeat(np.arange(n_species), _abundances(n_species, n_specimens, rng))
    owners = rng.permutation(owners)
    depths = rng.choice(list(_LABEL_DEPTHS), size=n_specimens, p=list(_LABEL_DEPTHS.values()))
    splits = partition(np.where(depths == len(RANKS), owners, -1), rng)
    columns = _describe(species, owners, depths, rng)
    columns |= _pad(list(_photograph_all(species, owners, seed)))
    _write(path, columns, splits)


def _abundances(
    n_species: int, n_specimens: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return how many specimens each species has: few of many, many of few."""
    weights = rng.lognormal(sigma=0.6, size=n_species)
    counts = np.maximum(1, np.floor(weights / weights.sum() * n_specimens)).astype(np.int64)
    counts[rng.permutation(n_species)[: max(1, n_species // 40)]] = 1
    counts[np.argmax(counts)] += n_specimens - counts.sum()
    return counts


def _describe(
    species: list[Taxon],
    owners: npt.NDArray[np.int64],
    depths: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Columns:
    """Return every column but the photos, one row per specimen."""
    lineages = [species[owner].lineage[:depth] for owner, depth in zip(owners, depths, strict=True)]
    columns: Columns = {
        rank: np.array(
            [line[level].encode() if level < len(line) else NOT_CLASSIFIED for line in lineages]
        )
        for level, rank in enumerate(RANKS)
    }
    numbers = range(len(owners))
    columns["sampleid"] = np.array([f"SAMPLE-{number:06d}".encode() for number in numbers])
    columns["processid"] = np.array([f"SMPL{number:06d}-26".encode() for number in numbers])
    columns["image_file"] = np.array([f"SMPL{number:06d}-26.jpg".encode() for number in numbers])
    # One species in ten falls into two BINs.
    in_second = (owners % 10 == 0) & (rng.random(len(owners)) < 0.5)
    bins = owners + len(species) * in_second
    columns["uri"] = np.array([f"BOLD:SMP{number:04d}".encode() for number in bins])
    columns[BARCODE] = np.array([sequence_specimen(species[o].barcode, rng) for o in owners])
    ids, mask = tokenize_names([" ".join(line) for line in lineages])
    return columns | {TEXT_IDS: ids, TEXT_MASK: mask, TEXT_TYPE_IDS: np.zeros_like(ids)}


def _photograph_all(
    species: list[Taxon], owners: npt.NDArray[np.int64], seed: int
) -> Iterator[bytes]:
    """Yield a JPEG of each specimen, drawn in parallel; each has a random stream of its own."""
    jobs = [(species[owner].traits, [seed, number]) for number, owner in enumerate(owners)]
    # Spawned rather than forked: the caller may run threads.
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        photos = pool.imap(photograph_from_traits, jobs, chunksize=32)
        yield from track(photos, description="Drawing specimens", total=len(jobs))


def _pad(jpegs: list[bytes]) -> Columns:
    lengths = np.array([len(jpeg) for jpeg in jpegs])
    images = np.zeros((len(jpegs), lengths.max()), dtype=np.uint8)
    for row, jpeg in zip(images, jpegs, strict=True):
        row[: len(jpeg)] = np.frombuffer(jpeg, dtype=np.uint8)
    return {IMAGE: images, IMAGE_LENGTH: lengths}


def _write(path: Path, columns: Columns, splits: dict[str, npt.NDArray[np.int64]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with h5py.File(unfinished, "w") as file:
        for split in SPLITS_1M:
            group = file.create_group(split)
            for name, values in columns.items():
                group[name] = values[splits[split]]
    os.replace(unfinished, path)
