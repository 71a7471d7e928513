import numpy as np
import pytest

from projects.bioscan_clip.data_tools.barcodes import (
    BARCODE_COLUMNS,
    ancestral_barcode,
    evolve,
    sequence_specimen,
)
from projects.bioscan_clip.data_tools.phylogeny import grow_species


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def distance(first: bytes | np.ndarray, second: bytes | np.ndarray) -> float:
    """Share of different sites among those both have, from an aligned start."""
    a, b = (np.frombuffer(bytes(barcode), dtype=np.uint8) for barcode in (first, second))
    sites = min(len(a), len(b))
    a, b = a[:sites], b[:sites]
    known = (a != ord("N")) & (b != ord("N"))
    return float((a != b)[known].mean())


def test_branch_length_is_the_share_of_changed_sites(rng):
    ancestor = ancestral_barcode(rng)
    assert (evolve(ancestor, 0.1, rng) != ancestor).sum() == BARCODE_COLUMNS // 10


def test_composition_is_that_of_coi(rng):
    barcodes = np.stack([taxon.barcode for taxon in grow_species(100, rng)])
    assert np.isin(barcodes, [1, 2]).mean() == pytest.approx(0.30, abs=0.04)


def test_sequences(rng):
    species = ancestral_barcode(rng)
    barcodes = [sequence_specimen(species, rng) for _ in range(500)]
    lengths = np.array([len(barcode) for barcode in barcodes])
    assert 500 <= lengths.min() < 600
    assert 680 < lengths.max() <= 700
    assert (lengths == 658).mean() > 0.7
    assert set(b"".join(barcodes)) == set(b"ACGTN")
    assert 0.05 < np.mean([b"N" in barcode for barcode in barcodes]) < 0.3


def test_divergence_within_and_between_species(rng):
    species = grow_species(60, rng)
    specimens = [[sequence_specimen(taxon.barcode, rng) for _ in range(8)] for taxon in species]
    within = [distance(a, b) for group in specimens for a in group for b in group]
    # The few that lack their first bases are not aligned to the others.
    assert np.quantile(within, 0.9) < 0.02
    sisters = [
        distance(a.barcode, b.barcode)
        for a in species
        for b in species
        if a is not b and a.lineage[:3] == b.lineage[:3]
    ]
    assert len(sisters) > 20
    assert min(sisters) > 0.03
    assert max(sisters) < 0.12


def test_relatives_are_closer_than_others(rng):
    species = grow_species(60, rng)
    by_shared_ranks = {
        shared: np.mean(
            [
                distance(a.barcode, b.barcode)
                for a in species
                for b in species
                if sum(x == y for x, y in zip(a.lineage, b.lineage, strict=True)) == shared
            ]
        )
        for shared in range(4)
    }
    assert by_shared_ranks[0] > by_shared_ranks[1] > by_shared_ranks[2] > by_shared_ranks[3]
