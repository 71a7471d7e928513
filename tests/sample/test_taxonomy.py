from collections import Counter

import numpy as np
import pytest

from projects.bioscan_clip.datasets.names import SAMPLE_VOCABULARY, TaxonTokenizer
from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_MASK
from projects.bioscan_clip.sample.taxonomy import ORDERS, grow_taxonomy

SIZES = [12, 24, 250]
UNKNOWN_TOKEN, MODEL_VOCABULARY = 100, 2000


@pytest.fixture(params=SIZES, ids=str)
def taxonomy(request):
    return grow_taxonomy(request.param, np.random.default_rng(request.param))


def test_default_sample_is_rich_enough():
    taxa = grow_taxonomy(200, np.random.default_rng(0)).names
    assert all(len(names) >= least for names, least in zip(taxa, (4, 12, 40, 150), strict=True))


def test_names_are_unique_at_every_rank(taxonomy):
    for names in taxonomy.names:
        assert len(set(names)) == len(names)


def test_names_follow_the_rules_of_nomenclature(taxonomy):
    orders, families, genera, species = taxonomy.names
    assert orders == ORDERS[: len(orders)]
    assert all(family.endswith("idae") and family.istitle() for family in families)
    assert all(genus.isalpha() and genus.istitle() for genus in genera)
    assert all(binomial.split()[1].islower() for binomial in species)


def test_binomials_start_with_their_genus_and_families_with_one_of_theirs(taxonomy):
    _, families, genera, species = taxonomy.names
    genera_of_families = [set() for _ in families]
    for _, family, genus, one in taxonomy.lineages():
        assert species[one].split()[0] == genera[genus]
        genera_of_families[family].add(genera[genus])
    for family, members in zip(families, genera_of_families, strict=True):
        assert any(genus.startswith(family.removesuffix("idae")) for genus in members)


def test_every_taxon_has_a_child(taxonomy):
    for depth, parents in enumerate(taxonomy.parents):
        assert set(parents) == set(range(len(taxonomy.names[depth])))


def test_richness_is_uneven():
    counts = Counter(grow_taxonomy(250, np.random.default_rng(0)).parents[2].tolist())
    assert max(counts.values()) >= 3 * min(counts.values())


@pytest.fixture(scope="module")
def lineage_names() -> list[str]:
    taxonomy = grow_taxonomy(200, np.random.default_rng(0))
    return [
        " ".join(taxa[i] for taxa, i in zip(taxonomy.names, lineage, strict=True))
        for lineage in taxonomy.lineages()
    ]


def test_tokens_of_names_are_known_distinct_and_few(lineage_names):
    tokenizer = TaxonTokenizer(SAMPLE_VOCABULARY)
    columns = tokenizer(lineage_names)
    assert (columns[TEXT_IDS] != UNKNOWN_TOKEN).all()
    assert columns[TEXT_IDS].max() < MODEL_VOCABULARY
    assert len(np.unique(columns[TEXT_IDS], axis=0)) == len(lineage_names)
    assert np.mean(columns[TEXT_MASK].sum(axis=1) < 20) > 0.95  # not cut
    assert tokenizer(ORDERS)[TEXT_MASK].sum(axis=1).max() <= 4
