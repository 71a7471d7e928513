"""Which specimens a synthetic file holds: how many of each species, their labels and barcodes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.splits import HEAD_SIZE
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    BIN_COLUMNS,
    IDENTIFIERS,
    NOT_CLASSIFIED,
    RANKS,
)
from projects.bioscan_clip.sample.barcodes import (
    Bases,
    evolve_barcodes,
    sequence_specimen,
    split_lineage,
)
from projects.bioscan_clip.sample.taxonomy import IntArray, Taxonomy

_UNLABELLED_SHARE = 0.27
_SINGLETON_SHARE = 0.06
_TAIL_SHARE = 0.18
_TWO_BIN_SHARE = 0.05
# How far down specimens of undescribed species are identified: order, family or genus.
_KNOWN_RANKS = ((1, 2, 3), (0.08, 0.27, 0.65))


@dataclass(frozen=True)
class Specimens:
    """A table with one row per specimen.

    Attributes
    ----------
    species : numpy.ndarray
        Position of its species in the taxonomy, int64, shape ``(N,)``, also where its label is
        unknown.
    columns : dict of str to numpy.ndarray
        Labels, identifiers, BIN and barcode by their names in the HDF5 file, bytes, shape ``(N,)``.
    names : list of str
        Known labels from order to species, joined by spaces.
    """

    species: IntArray
    columns: dict[str, npt.NDArray[np.bytes_]]
    names: list[str]


def collect_specimens(
    taxonomy: Taxonomy, n_described: int, n_specimens: int, rng: np.random.Generator
) -> Specimens:
    """Draw specimens in random order.

    Species that are not described have no name: about a quarter of the specimens, which are
    identified to genus, family or only order.

    Parameters
    ----------
    taxonomy : Taxonomy
        The species.
    n_described : int
        How many of them are described.
    n_specimens : int
        Number of specimens, at least 15 per described species.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Specimens
        The table.
    """
    described = _choose_described(taxonomy, n_described, rng)
    n_unlabelled = round(_UNLABELLED_SHARE * n_specimens)
    counts = np.empty(len(described), dtype=np.int64)
    counts[described] = _draw_abundances(n_described, n_specimens - n_unlabelled, rng)
    counts[~described] = _long_tail(n_unlabelled, int((~described).sum()), 1, rng)
    species = rng.permutation(np.repeat(np.arange(len(counts)), counts))

    known = np.where(
        described[species], len(RANKS), rng.choice(_KNOWN_RANKS[0], n_specimens, p=_KNOWN_RANKS[1])
    )
    labels = _label(taxonomy, species, known)
    columns = dict(zip(RANKS, labels, strict=True)) | _identifiers(n_specimens)
    second_lineage = _draw_lineages(counts, rng)[species] & (rng.random(n_specimens) < 0.5)
    columns[BIN_COLUMNS[0]] = _bin_names(species + len(counts) * second_lineage)
    columns[BARCODE] = _sequence(taxonomy, species, second_lineage, rng)
    names = [
        " ".join(label.decode() for label in lineage[:depth])
        for lineage, depth in zip(np.stack(labels, axis=1), known, strict=True)
    ]
    return Specimens(species, columns, names)


def _choose_described(
    taxonomy: Taxonomy, n_described: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Describe at least one species of every genus."""
    first_of_genus = np.unique(taxonomy.parents[2], return_index=True)[1]
    n_species = len(taxonomy.names[-1])
    others = np.setdiff1d(np.arange(n_species), first_of_genus)
    described = np.zeros(n_species, dtype=np.bool_)
    described[first_of_genus] = True
    described[rng.choice(others, n_described - len(first_of_genus), replace=False)] = True
    return described


def _draw_abundances(n_species: int, n_specimens: int, rng: np.random.Generator) -> IntArray:
    """Make few species common and many rare, some with a single specimen."""
    n_singletons = max(1, round(_SINGLETON_SHARE * n_species))
    n_tail = max(2, round(_TAIL_SHARE * n_species))
    rare = [np.ones(n_singletons, dtype=np.int64), rng.integers(2, HEAD_SIZE, n_tail)]
    n_rare = sum(int(counts.sum()) for counts in rare)
    heads = _long_tail(n_specimens - n_rare, n_species - n_singletons - n_tail, HEAD_SIZE, rng)
    return rng.permutation(np.concatenate([*rare, heads]))


def _long_tail(total: int, n_species: int, at_least: int, rng: np.random.Generator) -> IntArray:
    weights = rng.lognormal(0, 1, n_species)
    shared = rng.multinomial(total - at_least * n_species, weights / weights.sum())
    return np.asarray(at_least + shared, dtype=np.int64)


def _label(taxonomy: Taxonomy, species: IntArray, known: IntArray) -> list[npt.NDArray[np.bytes_]]:
    """Return the labels at each rank, the first `known` of which are given."""
    lineages = taxonomy.lineages()[species]
    return [
        np.where(known > depth, np.array(taxa, dtype="S")[lineages[:, depth]], NOT_CLASSIFIED)
        for depth, taxa in enumerate(taxonomy.names)
    ]


def _identifiers(n_specimens: int) -> dict[str, npt.NDArray[np.bytes_]]:
    columns = zip(IDENTIFIERS, ("SAMPLE-{:07d}", "SYN{:07d}-00", "SYN{:07d}-00.jpg"), strict=True)
    numbers = range(1, n_specimens + 1)
    return {
        name: np.array([pattern.format(number) for number in numbers], dtype="S")
        for name, pattern in columns
    }


def _draw_lineages(counts: IntArray, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose the species that fall into two BINs."""
    common = np.flatnonzero(counts >= HEAD_SIZE)
    chosen = rng.choice(common, max(1, round(_TWO_BIN_SHARE * len(common))), replace=False)
    two_bins = np.zeros(len(counts), dtype=np.bool_)
    two_bins[chosen] = True
    return two_bins


def _bin_names(numbers: IntArray) -> npt.NDArray[np.bytes_]:
    """Return names such as ``BOLD:AAA0001``."""
    names = []
    for number in (numbers + 1).tolist():
        block, digits = divmod(number, 10_000)
        letters = "".join(chr(ord("A") + block // 26**place % 26) for place in (2, 1, 0))
        names.append(f"BOLD:{letters}{digits:04d}")
    return np.array(names, dtype="S")


def _sequence(
    taxonomy: Taxonomy,
    species: IntArray,
    second_lineage: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> npt.NDArray[np.bytes_]:
    barcodes = evolve_barcodes(len(taxonomy.names[0]), taxonomy.parents, rng)
    second: dict[int, Bases] = {
        one: split_lineage(barcodes[one], rng)
        for one in np.unique(species[second_lineage]).tolist()
    }
    reads = [
        sequence_specimen(second[one] if in_second else barcodes[one], rng)
        for one, in_second in zip(species.tolist(), second_lineage.tolist(), strict=True)
    ]
    return np.array(reads, dtype="S")
