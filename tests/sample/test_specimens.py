import numpy as np
import pytest

from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, RANKS
from projects.bioscan_clip.sample.specimens import collect_specimens
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy

N_DESCRIBED = 60
N_SPECIMENS = 1200


@pytest.fixture(scope="module")
def collection():
    """A taxonomy, 60 of whose 75 species are described, and specimens of it."""
    rng = np.random.default_rng(0)
    taxonomy = grow_taxonomy(75, rng)
    return taxonomy, collect_specimens(taxonomy, N_DESCRIBED, N_SPECIMENS, rng)


@pytest.fixture(scope="module")
def columns(collection):
    return collection[1].columns


def test_abundance_is_long_tailed(columns):
    labels = columns["species"]
    _, counts = np.unique(labels[labels != NOT_CLASSIFIED], return_counts=True)
    assert len(counts) == N_DESCRIBED
    assert 1 <= np.sum(counts == 1) < 10
    assert np.sum(counts < 10) > N_DESCRIBED / 8
    assert counts.max() > 3 * np.median(counts)


def test_labels_are_those_of_the_specimens_taxa(collection):
    taxonomy, specimens = collection
    lineages = taxonomy.lineages()[specimens.species]
    for depth, rank in enumerate(RANKS):
        true = np.array(taxonomy.names[depth], dtype="S")[lineages[:, depth]]
        given = specimens.columns[rank]
        np.testing.assert_array_equal(given[given != NOT_CLASSIFIED], true[given != NOT_CLASSIFIED])


def test_a_quarter_lacks_a_species_and_few_lack_a_family(columns):
    unknown = [np.mean(columns[rank] == NOT_CLASSIFIED) for rank in RANKS]
    assert unknown[0] == 0
    assert 0 < unknown[1] < 0.05 < unknown[2] < 0.15 < unknown[3]
    assert unknown[3] == pytest.approx(0.27, abs=0.01)


def test_a_label_is_known_only_below_known_ones(columns):
    known = np.stack([columns[rank] != NOT_CLASSIFIED for rank in RANKS])
    assert (known[1:] <= known[:-1]).all()


def test_names_hold_the_known_labels(collection):
    specimens = collection[1]
    for row in (0, 1, 2, int(np.flatnonzero(specimens.columns["genus"] == NOT_CLASSIFIED)[0])):
        labels = [specimens.columns[rank][row] for rank in RANKS]
        known = [label.decode() for label in labels if label != NOT_CLASSIFIED]
        assert specimens.names[row] == " ".join(known)


def test_a_bin_holds_one_species_and_few_species_have_two(collection):
    specimens = collection[1]
    pairs = set(zip(specimens.columns["uri"], specimens.species.tolist(), strict=True))
    bins, species = ([pair[side] for pair in pairs] for side in (0, 1))
    assert len(set(bins)) == len(bins)
    assert 0 < len(species) - len(set(species)) < 10
    assert all(len(name) == 12 and name.startswith(b"BOLD:A") for name in bins)


def test_identifiers_are_unique(columns):
    for name in ("sampleid", "processid", "image_file"):
        assert len(set(columns[name])) == N_SPECIMENS
