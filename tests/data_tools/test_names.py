import numpy as np
import pytest

from projects.bioscan_clip.data_tools.names import tokenize_names
from projects.bioscan_clip.data_tools.phylogeny import grow_species


@pytest.fixture(scope="module")
def lineages():
    return [taxon.lineage for taxon in grow_species(200, np.random.default_rng(0))]


def test_names_are_unique_and_nested(lineages):
    assert len({line[3] for line in lineages}) == 200
    for rank in (1, 2, 3):
        assert len({line[rank] for line in lineages}) == len({line[: rank + 1] for line in lineages})


def test_names_look_latin(lineages):
    for _, family, genus, species in lineages:
        assert family.endswith("idae")
        assert species.split()[0] == genus
        assert species.split()[1].islower()
        assert genus[0].isupper()


def test_tokens_spell_the_name(lineages):
    names = [" ".join(line) for line in lineages]
    ids, mask = tokenize_names(names)
    assert ids.shape == mask.shape == (200, 20)
    assert (ids[:, 0] == 101).all()
    assert ((ids != 0) == mask).all()
    assert (ids == 102).sum() == 200
    assert not (ids == 100).any()
    assert ids.max() < 2000
    assert len(np.unique(ids, axis=0)) == 200  # no two species read the same
    assert (ids[:, -1] == 0).mean() > 0.9  # hardly any is cut off


def test_partial_names_have_fewer_tokens(lineages):
    full, order_only = " ".join(lineages[0]), lineages[0][0]
    ids, mask = tokenize_names([full, order_only])
    assert mask[0].sum() > mask[1].sum() == 3
    assert ids[1, :3].tolist() == [101, ids[0, 1], 102]
