"""Specimens of a dataset are those that h5py reads from its file."""

import h5py
import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.reports.specimens import Specimens, specimens_of

ROWS = np.array([5, 0, 17])


@pytest.fixture(scope="module")
def dataset(sample_file):
    return BIOSCANInsectDataset(sample_file, "all_keys", for_training=False)


def test_ids_names_and_photos(dataset, sample_file):
    found = specimens_of(dataset, ROWS)
    with h5py.File(sample_file) as file:
        group = file["all_keys"]
        for place, row in enumerate(ROWS):
            for name in ("sampleid", "processid", "image_file", "order", "family", "genus"):
                assert found.table[name][place] == group[name][row].decode()
            photo = group["image"][row][: group["image_mask"][row]].tobytes()
            assert found.read_photo(place) == photo


def test_names_have_the_codes_of_the_labels(dataset):
    found = specimens_of(dataset, ROWS)
    names = found.table["species"].fillna("not_classified").map(str.encode).to_numpy(dtype="S")
    labels = dataset.read_batch(ROWS.tolist(), seed=(0,))["labels"][:, 3]
    assert torch.from_numpy(encode_taxa(names)).equal(labels)


def test_unknown_names_are_missing(tmp_path, sample_file):
    path = tmp_path / "file.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "a") as file:
        file["all_keys/species"][0] = b"not_classified"
        file["all_keys/genus"][0] = b""
        del file["all_keys/processid"]
    table = specimens_of(BIOSCANInsectDataset(path, "all_keys"), np.arange(2)).table
    assert table.loc[0, ["genus", "species", "processid"]].isna().all()
    assert table.loc[1, ["genus", "species"]].notna().all()


def test_parts_and_selections_keep_their_photos(dataset):
    parts = [specimens_of(dataset, ROWS), specimens_of(dataset, np.array([3, 4]))]
    whole = Specimens.concatenate(parts)
    assert whole.table["sampleid"].tolist() == [
        *parts[0].table["sampleid"],
        *parts[1].table["sampleid"],
    ]
    assert whole.read_photo(3) == parts[1].read_photo(0)
    chosen = whole[np.array([False, True, False, False, True])]
    assert chosen.read_photo(1) == parts[1].read_photo(1)
    assert chosen.table["sampleid"].tolist() == whole.table["sampleid"].tolist()[1::3]


def test_other_datasets_have_no_names():
    found = specimens_of(object(), np.arange(3))
    assert len(found.table) == 3
    assert found.table.isna().all(axis=None)
    assert found.read_photo is None
