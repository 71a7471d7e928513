"""DNA barcodes that evolve down a taxonomy, with the composition of insect COI."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.sample.taxonomy import IntArray

Bases = npt.NDArray[np.uint8]

BARCODE_LENGTH: Final = 658
"""Bases of the standard COI barcode region."""

MIN_LENGTH: Final = 500
"""Bases of the shortest read."""

MAX_LENGTH: Final = 700
"""Bases that evolve: some reads continue after the barcode region."""

_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_COMPOSITION = (0.30, 0.16, 0.15, 0.39)
# Third codon positions change fastest and second ones slowest; the mean is 1.
_SITE_RATES = np.resize((0.55, 0.25, 2.2), MAX_LENGTH)
# Substitutions per site on the branch that leads to a taxon of each rank.
_ORDER_BRANCH = 0.05
_FAMILY_BRANCH = 0.06
_GENUS_BRANCH = 0.06
_SPECIES_BRANCH = (0.025, 0.05)

_MAX_PRIVATE_SUBSTITUTIONS = 4
_LINEAGE_SUBSTITUTIONS = 2


def evolve_barcodes(n_orders: int, parents: Sequence[IntArray], rng: np.random.Generator) -> Bases:
    """Evolve one barcode per species from a common ancestor.

    A substitution draws the new base from fixed frequencies (the model of Felsenstein, 1981), so
    that the composition stays that of the ancestor.

    Parameters
    ----------
    n_orders : int
        Number of orders.
    parents : sequence of numpy.ndarray
        Parents of families, genera and species; see ``Taxonomy.parents``.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    numpy.ndarray
        ASCII codes of A, C, G and T, uint8, shape ``(n_species, 700)``.
    """
    ancestor = rng.choice(_BASES, MAX_LENGTH, p=_COMPOSITION)
    barcodes = np.tile(ancestor, (n_orders, 1))
    barcodes = _substitute(barcodes, np.full(n_orders, _ORDER_BRANCH), rng)
    for branch, parent in zip((_FAMILY_BRANCH, _GENUS_BRANCH), parents[:2], strict=True):
        barcodes = _substitute(barcodes[parent], np.full(len(parent), branch), rng)
    branches = rng.uniform(*_SPECIES_BRANCH, len(parents[2]))
    return _substitute(barcodes[parents[2]], branches, rng)


def split_lineage(barcode: Bases, rng: np.random.Generator) -> Bases:
    """Return the barcode of a second lineage within a species, two substitutions away.

    Parameters
    ----------
    barcode : numpy.ndarray
        The species' barcode, uint8, shape ``(700,)``.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    numpy.ndarray
        uint8, shape ``(700,)``.
    """
    return _replace_bases(barcode, _LINEAGE_SUBSTITUTIONS, rng)


def sequence_specimen(barcode: Bases, rng: np.random.Generator) -> bytes:
    """Return the read of one specimen: its own substitutions, its ends, and bases not called.

    Most reads have 658 bases. Others are shorter or longer at the 3' end, which leaves the
    reading frame of k-mers alone; a few begin late.

    Parameters
    ----------
    barcode : numpy.ndarray
        Barcode of the species or lineage, uint8, shape ``(700,)``.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    bytes
        500 to 700 of A, C, G, T and N.
    """
    substitutions = min(int(rng.poisson(1.2)), _MAX_PRIVATE_SUBSTITUTIONS)
    read = _replace_bases(barcode, substitutions, rng)
    start, end = 0, BARCODE_LENGTH
    quality = rng.random()
    if quality < 0.18:
        end = int(rng.integers(MIN_LENGTH, BARCODE_LENGTH))
    elif quality < 0.22:
        end = int(rng.integers(BARCODE_LENGTH + 1, MAX_LENGTH + 1))
    elif quality < 0.26:
        start = int(rng.integers(1, 40))
    read = read[start:end]
    if rng.random() < 0.15:
        first = int(rng.integers(len(read) - 12))
        read[first : first + int(rng.integers(1, 12))] = ord("N")
    return read.tobytes()


def _substitute(
    barcodes: Bases, branches: npt.NDArray[np.float64], rng: np.random.Generator
) -> Bases:
    # A new base equals the old one with the probability of its frequency, so more are drawn.
    changing = 1 - sum(frequency**2 for frequency in _COMPOSITION)
    probability = 1 - np.exp(-branches[:, None] * _SITE_RATES / changing)
    drawn = rng.choice(_BASES, barcodes.shape, p=_COMPOSITION)
    return np.where(rng.random(barcodes.shape) < probability, drawn, barcodes)


def _replace_bases(barcode: Bases, count: int, rng: np.random.Generator) -> Bases:
    barcode = barcode.copy()
    sites = rng.choice(MAX_LENGTH, count, replace=False, p=_SITE_RATES / _SITE_RATES.sum())
    barcode[sites] = rng.choice(_BASES, count, p=_COMPOSITION)
    return barcode
