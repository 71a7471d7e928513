import numpy as np
import pandas as pd
import pytest
from bioscan_dataset.bioscan1m import CLIBD_VALID_METASPLITS, CLIBD_VALID_SPLITS
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.data_tools.splits import split_table

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
