import numpy as np
import pytest

from projects.bioscan_clip.sample.taxonomy import ORDERS, grow_taxonomy
from projects.bioscan_clip.sample.traits import TRAITS, evolve_traits, express_traits


@pytest.fixture(scope="module")
def tree():
    """A taxonomy with every order, and the traits of its species."""
    rng = np.random.default_rng(0)
    taxonomy = grow_taxonomy(300, rng)
    assert taxonomy.names[0] == ORDERS
    return taxonomy, evolve_traits(taxonomy.names[0], taxonomy.parents, rng)


def test_traits_stay_in_their_ranges(tree):
    traits = tree[1]
    assert traits.shape == (300, len(TRAITS))
    assert traits.min() >= 0
    assert traits.max() <= 1
    expressed = express_traits(traits[0], np.random.default_rng(0))
    for name, trait in TRAITS.items():
        assert trait.low <= expressed[name] <= trait.high


def test_relatives_look_alike(tree):
    taxonomy, traits = tree
    lineages = taxonomy.lineages()
    distances = np.linalg.norm(traits[:, None] - traits[None], axis=2)
    ranks_shared = (lineages[:, None] == lineages[None]).sum(axis=2)
    means = [distances[ranks_shared == shared].mean() for shared in (3, 2, 1, 0)]
    assert np.diff(means).min() > 0.05


def test_specimens_resemble_their_species_more_than_its_sisters(tree):
    traits = tree[1]
    names = list(TRAITS)
    low, high = (
        np.array([getattr(TRAITS[name], end) for name in names]) for end in ("low", "high")
    )
    rng = np.random.default_rng(0)
    nearest = []
    for species, looks in enumerate(traits):
        expressed = express_traits(looks, rng)
        specimen = (np.array([expressed[name] for name in names]) - low) / (high - low)
        nearest.append(np.linalg.norm(traits - specimen, axis=1).argmin() == species)
    assert np.mean(nearest) > 0.9


def test_the_number_of_wings_is_that_of_the_order(tree):
    taxonomy, traits = tree
    pairs = traits[:, list(TRAITS).index("wing_pairs")]
    for order, expected in zip(ORDERS, (1, 2, 1, 2, 1, 2), strict=True):
        members = taxonomy.lineages()[:, 0] == ORDERS.index(order)
        assert set(pairs[members]) == {expected - 1}, order
