from itertools import combinations

import numpy as np
import pytest

from projects.bioscan_clip.sample.barcodes import (
    BARCODE_LENGTH,
    MAX_LENGTH,
    MIN_LENGTH,
    evolve_barcodes,
    sequence_specimen,
    split_lineage,
)
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy

N_SPECIES = 120
READS = 300


@pytest.fixture(scope="module", params=[0, 1])
def tree(request):
    """A taxonomy and the barcodes of its species."""
    rng = np.random.default_rng(request.param)
    taxonomy = grow_taxonomy(N_SPECIES, rng)
    return taxonomy, evolve_barcodes(len(taxonomy.names[0]), taxonomy.parents, rng)


@pytest.fixture(scope="module")
def reads(tree):
    """Reads of one species: half of them of its second lineage."""
    rng = np.random.default_rng(0)
    species = tree[1][0]
    lineages = (species, split_lineage(species, rng))
    return [sequence_specimen(lineages[number % 2], rng) for number in range(READS)]


def p_distance(first: np.ndarray, second: np.ndarray) -> float:
    called = (first != ord("N")) & (second != ord("N"))
    return float((first != second)[called].mean())


def test_composition_is_that_of_coi(tree):
    _, barcodes = tree
    shares = [(barcodes == base).mean() for base in b"ACGT"]
    np.testing.assert_allclose(shares, (0.30, 0.16, 0.15, 0.39), atol=0.05)
    assert 0.25 < shares[1] + shares[2] < 0.36


def test_divergence_grows_with_rank(tree):
    taxonomy, barcodes = tree
    barcodes = barcodes[:, :BARCODE_LENGTH]
    distances = (barcodes[:, None] != barcodes[None]).mean(axis=2)
    lineages = taxonomy.lineages()
    ranks_shared = (lineages[:, None] == lineages[None]).sum(axis=2)
    by_rank = [distances[ranks_shared == shared] for shared in (3, 2, 1, 0)]

    sisters = by_rank[0]
    assert np.mean((sisters > 0.03) & (sisters < 0.12)) > 0.99
    means = [group.mean() for group in by_rank]
    assert np.diff(means).min() > 0.02
    assert means[-1] < 0.35


def test_specimens_of_a_species_differ_by_less_than_two_percent(reads):
    full = [np.frombuffer(read, np.uint8) for read in reads if len(read) == BARCODE_LENGTH][:60]
    distances = [p_distance(first, second) for first, second in combinations(full, 2)]
    assert 0 < np.mean(distances) < 0.01
    assert max(distances) < 0.02


def test_a_second_lineage_is_close_to_the_first(tree):
    species = tree[1][0]
    other = split_lineage(species, np.random.default_rng(1))
    assert (species != other).sum() <= 2


def test_reads_vary_in_length_around_the_barcode_region(reads):
    lengths = np.array([len(read) for read in reads])
    assert lengths.min() >= MIN_LENGTH
    assert lengths.max() <= MAX_LENGTH
    assert np.mean(lengths == BARCODE_LENGTH) > 0.6
    assert (lengths < BARCODE_LENGTH).any()
    assert (lengths > BARCODE_LENGTH).any()


def test_most_reads_share_the_reading_frame(tree, reads):
    species = tree[1][0]
    near = [
        p_distance(np.frombuffer(read, np.uint8), species[: len(read)]) < 0.05 for read in reads
    ]
    assert np.mean(near) > 0.9


def test_some_bases_are_not_called(reads):
    assert set(b"".join(reads)) == set(b"ACGTN")
    assert 0.05 < np.mean([b"N" in read for read in reads]) < 0.3
