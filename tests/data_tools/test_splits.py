import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.data_tools.splits import HEAD_SPECIES_SIZE, partition

DISJOINT = (
    "no_split", "train_seen", "val_seen", "test_seen", "seen_keys",
    "val_unseen", "val_unseen_keys", "test_unseen", "test_unseen_keys",
)  # fmt: skip
SEEN = ("train_seen", "val_seen", "test_seen", "seen_keys")


@st.composite
def collections(draw) -> np.ndarray:
    """Species codes of specimens, in any order, some unknown."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=30))
    unknown = draw(st.integers(0, 20))
    species = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(unknown, -1)])
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(species)


def split(species: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    return partition(species, np.random.default_rng(seed))


@settings(max_examples=100, deadline=None)
@given(collections())
def test_promises_of_the_paper(species):
    splits = split(species)
    rows = np.concatenate([splits[name] for name in DISJOINT])
    assert np.sort(rows).tolist() == list(range(len(species)))  # all of them, each once

    taxa = {name: set(species[rows].tolist()) for name, rows in splits.items()}
    seen = set().union(*(taxa[name] for name in SEEN))
    val, test = (taxa[f"{s}_unseen"] | taxa[f"{s}_unseen_keys"] for s in ("val", "test"))
    assert not seen & (val | test)
    assert not val & test
    assert taxa["val_unseen"] <= taxa["val_unseen_keys"]  # each query's species has a key
    assert taxa["test_unseen"] <= taxa["test_unseen_keys"]
    assert all(taxa[name] == seen for name in SEEN)
    assert -1 not in seen | val | test


@settings(max_examples=50, deadline=None)
@given(collections())
def test_species_by_their_size(species):
    splits = split(species)
    taxa, sizes = np.unique(species[species >= 0], return_counts=True)
    seen = set(species[splits["train_seen"]])
    assert all(sizes[taxa == taxon] >= HEAD_SPECIES_SIZE for taxon in seen)
    assert len(seen) == round(0.8 * (sizes >= HEAD_SPECIES_SIZE).sum())
    assert set(species[splits["single_species"]]) == set(taxa[sizes == 1])
    assert set(splits["single_species"]) <= set(splits["no_split"])


def test_shares_of_seen_specimens():
    species = np.repeat(np.arange(10), 50)
    splits = split(species)
    assert [len(splits[name]) for name in SEEN] == [8 * 35, 8 * 5, 8 * 5, 8 * 5]


def test_unions():
    splits = split(np.repeat(np.arange(20), 12))
    assert set(splits["no_split_and_seen_train"]) == {*splits["no_split"], *splits["train_seen"]}
    keys = {*splits["seen_keys"], *splits["val_unseen_keys"], *splits["test_unseen_keys"]}
    assert set(splits["all_keys"]) == keys


def test_seed_decides():
    species = np.repeat(np.arange(20), 12)
    assert all((split(species)[name] == rows).all() for name, rows in split(species).items())
    assert set(split(species, 1)["train_seen"]) != set(split(species, 2)["train_seen"])
