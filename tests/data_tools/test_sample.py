import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.data_tools import sample
from projects.bioscan_clip.data_tools.sample import write_sample
from projects.bioscan_clip.datasets import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.schema import SPLITS_1M

COLUMNS = {
    "image": "u", "image_mask": "i", "barcode": "S", "order": "S", "family": "S", "genus": "S",
    "species": "S", "sampleid": "S", "processid": "S", "image_file": "S", "uri": "S",
    "language_tokens_input_ids": "i", "language_tokens_token_type_ids": "i",
    "language_tokens_attention_mask": "i",
}  # fmt: skip


def test_every_split_has_every_column(sample_file):
    with h5py.File(sample_file) as file:
        assert set(file) == set(SPLITS_1M)
        for split in file.values():
            assert {name: column.dtype.kind for name, column in split.items()} == COLUMNS
            assert len({len(column) for column in split.values()}) == 1
            assert split["image"].dtype == np.uint8
            assert split["language_tokens_input_ids"].shape[1:] == (20,)


@pytest.mark.parametrize("split", SPLITS_1M)
def test_every_photo_decodes(sample_file, split):
    dataset = BIOSCANInsectDataset(sample_file, split, image_size=16, on_bad_image="raise")
    for row in range(len(dataset)):
        assert dataset[row]["rgb"].shape == (3, 16, 16)


def test_a_specimen_is_the_same_in_every_split(sample_file):
    with h5py.File(sample_file) as file:
        keys, seen_keys = file["all_keys"], file["seen_keys"]
        rows = np.flatnonzero(np.isin(keys["sampleid"][:], seen_keys["sampleid"][:]))
        for name in COLUMNS:
            assert (keys[name][:][rows] == seen_keys[name][:]).all()


def test_labels_are_unknown_from_some_rank_down(sample_file):
    with h5py.File(sample_file) as file:
        split = file["no_split_and_seen_train"]
        labels = np.stack([split[r][:] for r in ("order", "family", "genus", "species")], axis=1)
    unknown = labels == b"not_classified"
    assert not unknown[:, 0].any()
    assert (unknown[:, 1:] >= unknown[:, :-1]).all()
    assert 0.2 < unknown[:, 3].mean() < 0.6


def test_same_arguments_give_the_same_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_sample(tmp_path / name, n_species=8, n_specimens=64, seed=seed)
    first, same, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == same
    assert first != other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_mmlearns_way_of_reading_works(sample_file):
    """As mmlearn's own bioscan_clip reads a row, written here anew from the file's layout."""
    file = h5py.File(sample_file, "r", libver="latest")
    group = file["val_seen"]
    jpeg = group["image"][0].astype(np.uint8)[: group["image_mask"][0]]
    assert bytes(jpeg[:2]) == b"\xff\xd8"
    assert bytes(jpeg[-2:]) == b"\xff\xd9"
    assert set(group["barcode"][0].decode("utf-8")) <= set("ACGTN")
    assert " " in group["species"][0].decode("utf-8")
    assert group["image_file"][0].decode("utf-8").endswith(".jpg")


@settings(max_examples=50)
@given(n_species=st.integers(8, 300), per_species=st.integers(8, 60), seed=st.integers(0, 9))
def test_abundances(n_species, per_species, seed):
    n_specimens = n_species * per_species
    counts = sample._abundances(n_species, n_specimens, np.random.default_rng(seed))
    assert counts.sum() == n_specimens
    assert counts.min() == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((7, 400), "at least 8 species, not 7"), ((50, 399), "at least 400 specimens, not 399")],
)
def test_too_small_a_sample(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path / "small.hdf5", *sizes)
