import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from projects.bioscan_clip.data_tools.photos import Morphology, photograph_from_traits
from projects.bioscan_clip.data_tools.phylogeny import grow_species


@pytest.fixture(scope="module")
def species():
    return grow_species(40, np.random.default_rng(0))


def test_photos_are_jpegs_of_the_usual_size(species):
    jpegs = [photograph_from_traits((taxon.traits, [0, n])) for n, taxon in enumerate(species)]
    photos = [Image.open(io.BytesIO(jpeg)) for jpeg in jpegs]
    assert all(photo.format == "JPEG" and min(photo.size) == 256 for photo in photos)
    assert 10_000 < np.quantile([len(jpeg) for jpeg in jpegs], 0.05)
    assert np.quantile([len(jpeg) for jpeg in jpegs], 0.9) < 25_000


def test_seed_decides_about_the_photo(species):
    first, same, other = (photograph_from_traits((species[0].traits, [0, n])) for n in (1, 1, 2))
    assert first == same
    assert first != other


def test_relatives_look_alike(species):
    """Body plan follows order and family; colours and patterns differ within a genus less."""
    traits = {taxon.lineage: taxon.traits for taxon in species}

    def mean_distance(shared_ranks: int, part: slice) -> float:
        return float(
            np.mean(
                [
                    np.abs(traits[a] - traits[b])[part].mean()
                    for a, b in combinations(traits, 2)
                    if sum(x == y for x, y in zip(a, b, strict=True)) == shared_ranks
                ]
            )
        )

    plan, pattern = slice(0, 12), slice(12, 24)
    assert mean_distance(0, plan) > mean_distance(1, plan) > 3 * mean_distance(2, plan)
    assert mean_distance(2, plan) > mean_distance(3, plan)
    assert mean_distance(2, pattern) > 1.5 * mean_distance(3, pattern)
    assert mean_distance(3, pattern) > 3 * mean_distance(3, plan)


def test_species_of_a_genus_can_be_told_apart(species):
    looks = [Morphology.from_traits(taxon.traits) for taxon in species]
    assert len({str(look) for look in looks}) == len(species)
