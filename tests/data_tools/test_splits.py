import numpy as np
import pandas as pd
import pytest
from bioscan_dataset.bioscan1m import CLIBD_VALID_METASPLITS, CLIBD_VALID_SPLITS
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.data_tools.splits import (
    BASE_SPLITS,
    partition,
    rows_of_splits,
    split_table,
)
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, SPLITS_1M

SEEN = ("train_seen", "val_seen", "test_seen", "seen_keys")
VAL_UNSEEN = ("val_unseen", "val_unseen_keys")
TEST_UNSEEN = ("test_unseen", "test_unseen_keys")


@st.composite
def label_columns(draw):
    """Species labels of a collection in random order, with some unknown."""
    sizes = draw(st.lists(st.integers(1, 30), max_size=25))
    names = [f"Genus species{number}".encode() for number in range(len(sizes))]
    labels = np.repeat(np.array(names, dtype="S20"), sizes)
    unknown = np.array([NOT_CLASSIFIED, b""] * draw(st.integers(0, 5)), dtype="S20")
    order = np.random.default_rng(draw(st.integers(0, 9)))
    return order.permutation(np.concatenate([labels, unknown]))


def species_in(species, splits, names) -> set[bytes]:
    return set(species[np.isin(splits, names)])


@settings(deadline=None, max_examples=80)
@given(label_columns(), st.integers(0, 5))
def test_the_partition_is_sound(species, seed):
    splits = partition(species, seed)
    assert splits.shape == species.shape
    assert np.isin(splits, BASE_SPLITS).all()

    seen = species_in(species, splits, SEEN)
    val_unseen = species_in(species, splits, VAL_UNSEEN)
    test_unseen = species_in(species, splits, TEST_UNSEEN)
    single = species_in(species, splits, ["single_species"])
    groups = [seen, val_unseen, test_unseen, single]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert species_in(species, splits, ["no_split"]) <= {NOT_CLASSIFIED, b""}
    assert not set.union(*groups) & {NOT_CLASSIFIED, b""}

    taxa, counts = np.unique(species, return_counts=True)
    size = dict(zip(taxa, counts, strict=True))
    assert all(size[one] == 1 for one in single)
    assert all(size[one] >= 10 for one in seen)
    assert all(size[one] >= 2 for one in val_unseen | test_unseen)
    for parts in (SEEN, VAL_UNSEEN, TEST_UNSEEN):
        for part in parts:  # every query has a key, and every species is met in every role
            assert species_in(species, splits, [part]) == species_in(species, splits, parts)


@settings(deadline=None, max_examples=30)
@given(label_columns())
def test_every_specimen_is_in_exactly_one_base_split(species):
    rows = rows_of_splits(partition(species, 0))
    assert set(rows) == set(SPLITS_1M)
    # single_species is part of no_split, and the others are unions.
    disjoint = [rows[name] for name in ("no_split", *BASE_SPLITS[2:])]
    assert sorted(np.concatenate(disjoint)) == list(range(len(species)))


@settings(deadline=None, max_examples=30)
@given(label_columns(), st.integers(0, 5))
def test_the_same_seed_gives_the_same_partition(species, seed):
    np.testing.assert_array_equal(partition(species, seed), partition(species.copy(), seed))


@pytest.fixture(scope="module")
def collection():
    """100 species with 20 specimens each."""
    species = np.repeat(np.array([f"Genus {number}".encode() for number in range(100)]), 20)
    return species, partition(species, 0)


def test_shares_are_those_of_the_paper(collection):
    species, splits = collection
    assert len(species_in(species, splits, SEEN)) == 80
    assert len(species_in(species, splits, VAL_UNSEEN)) == 10
    assert len(species_in(species, splits, TEST_UNSEEN)) == 10
    n_seen = 80 * 20
    counts = {name: int((splits == name).sum()) for name in BASE_SPLITS}
    assert [counts[name] for name in SEEN] == [share * n_seen // 10 for share in (7, 1, 1, 1)]
    assert [counts[name] for name in (*VAL_UNSEEN, *TEST_UNSEEN)] == [100] * 4


def test_unions_hold_their_parts(collection):
    rows = rows_of_splits(collection[1])
    keys = [rows[name] for name in ("seen_keys", "val_unseen_keys", "test_unseen_keys")]
    np.testing.assert_array_equal(rows["all_keys"], np.sort(np.concatenate(keys)))
    training = [rows["no_split"], rows["train_seen"]]
    expected = np.sort(np.concatenate(training))
    np.testing.assert_array_equal(rows["no_split_and_seen_train"], expected)


def test_singletons_are_for_pretraining():
    rows = rows_of_splits(partition(np.array([b"Aedes a", NOT_CLASSIFIED]), 0))
    assert rows["single_species"].tolist() == [0]
    assert rows["no_split"].tolist() == [0, 1]


def test_other_seeds_give_other_partitions(collection):
    species, splits = collection
    assert (partition(species, 1) != splits).any()


SIZES = st.lists(st.integers(1, 25), min_size=1, max_size=12)


def table_of(sizes: list[int], unnamed: int) -> pd.DataFrame:
    species = [f"Aus b{number}" for number, size in enumerate(sizes) for _ in range(size)]
    species += [""] * unnamed
    return pd.DataFrame({"sampleid": [f"S{i:03}" for i in range(len(species))], "species": species})


def lists(folder) -> dict[str, list[str]]:
    return {path.stem: path.read_text().split() for path in folder.glob("*.txt")}


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 5), st.integers(0, 9))
def test_every_specimen_is_in_one_list_whatever_the_order_of_rows(tmp_path_factory, sizes, n, seed):
    folder = tmp_path_factory.mktemp("lists")
    table = table_of(sizes, n)
    shuffled = table.sample(frac=1, random_state=seed)
    table.to_csv(folder / "table.csv", index=False)
    shuffled.to_csv(folder / "shuffled.tsv", index=False, sep="\t")
    split_table(folder / "table.csv", folder / "one", seed)
    split_table(folder / "shuffled.tsv", folder / "two", seed)
    one = lists(folder / "one")
    assert one == lists(folder / "two")
    assert set(one) >= {*CLIBD_VALID_SPLITS, *CLIBD_VALID_METASPLITS} - {"all"}
    in_base = [each for name in CLIBD_VALID_SPLITS for each in one[name]]
    assert sorted(in_base) == sorted(table["sampleid"])
    keys = [*one["seen_keys"], *one["val_unseen_keys"], *one["test_unseen_keys"]]
    assert sorted(one["all_keys"]) == sorted(keys)


def test_counts_and_seeds(tmp_path):
    table_of([30] * 10 + [4] * 6 + [1] * 3, 7).to_csv(tmp_path / "table.csv", index=False)
    counts = split_table(tmp_path / "table.csv", tmp_path / "lists")
    assert counts.loc["train_seen"].tolist() == [8 * 21, 8]
    assert counts.loc["seen_keys"].tolist() == [8 * 3, 8]
    assert counts.loc["single_species"].tolist() == [3, 3]
    assert counts.loc["no_split"].tolist() == [7, 0]
    assert counts.loc["val_unseen", "species"] + counts.loc["test_unseen", "species"] == 8
    split_table(tmp_path / "table.csv", tmp_path / "other", seed=1)
    assert lists(tmp_path / "lists") != lists(tmp_path / "other")


def test_other_columns(tmp_path):
    table = table_of([12, 3], 0).rename(columns={"sampleid": "processid", "species": "name"})
    table.to_csv(tmp_path / "table.csv", index=False)
    split_table(tmp_path / "table.csv", tmp_path / "a", 0, "name", "processid")
    with pytest.raises(ValueError, match=r"has no column sampleid or no column species; it has p"):
        split_table(tmp_path / "table.csv", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(sampleid="S1"), "the sampleid 'S1' is there more than once"),
        (lambda t: t.assign(sampleid=t["sampleid"].mask(t.index == 2)), "line 4: .* no sampleid"),
        (lambda t: t.assign(species=np.nan), "no specimen has a species"),
        (lambda t: t.assign(species="not_classified"), "no specimen has a species"),
    ],
)
def test_tables_that_cannot_be_split(tmp_path, change, message):
    change(table_of([12, 3], 2)).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ValueError, match=message):
        split_table(tmp_path / "table.csv", tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_lists_are_replaced_only_with_force(tmp_path):
    table_of([12, 3], 2).to_csv(tmp_path / "table.csv", index=False)
    split_table(tmp_path / "table.csv", tmp_path)
    before = lists(tmp_path)
    with pytest.raises(FileExistsError, match=r"no_split\.txt exists\. Use --force"):
        split_table(tmp_path / "table.csv", tmp_path, seed=1)
    assert lists(tmp_path) == before
    split_table(tmp_path / "table.csv", tmp_path, seed=1, force=True)
    assert lists(tmp_path) != before


def test_a_full_disk_leaves_all_lists_as_they_were(tmp_path, monkeypatch):
    table_of([12, 3], 2).to_csv(tmp_path / "table.csv", index=False)
    split_table(tmp_path / "table.csv", tmp_path)
    before, names, write = lists(tmp_path), set(tmp_path.iterdir()), pd.Series.to_csv

    def fill_the_disk(ids, path, **options):
        write(ids, path, **options)
        if path.name.startswith("test_seen"):
            raise OSError("No space left on device")

    monkeypatch.setattr(pd.Series, "to_csv", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        split_table(tmp_path / "table.csv", tmp_path, seed=1, force=True)
    assert (lists(tmp_path), set(tmp_path.iterdir())) == (before, names)
