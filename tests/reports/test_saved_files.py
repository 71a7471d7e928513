"""Embeddings survive the way to the file and back, whatever the file went through."""

import h5py
import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.reports import saved_embeddings
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings, save_embeddings
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.specimens import Specimens, as_table, specimens_of
from projects.bioscan_clip.scoring.embeddings import Embeddings

RANKS = ("order", "family", "genus", "species")


def test_labels_are_those_of_the_data_file(tmp_path, sample_file):
    embeddings, specimens, expected = {}, {}, {}
    for role, split in {"keys": "all_keys", "seen": "test_seen"}.items():
        dataset = BIOSCANInsectDataset(sample_file, split, for_training=False)
        rows = np.arange(len(dataset))[::-2]  # some, in another order
        batch = dataset.read_batch(rows.tolist(), seed=(0,))
        expected[role] = batch["labels"]
        embeddings[role] = Embeddings(batch["labels"], dna=torch.rand(len(rows), 3))
        specimens[role] = specimens_of(dataset, rows)
    save_embeddings(EvaluatedSets(embeddings, specimens, "test"), tmp_path)
    loaded = load_embeddings(tmp_path)
    for role, labels in expected.items():
        assert loaded.embeddings[role].labels.equal(labels)
    with h5py.File(sample_file) as file:
        ids = file["test_seen/processid"].asstr()[:][::-2]
    assert loaded.specimens["seen"].table["processid"].tolist() == ids.tolist()


def write(path, edit=lambda file: None):
    with h5py.File(path, "w") as file:
        for split, count in {"all_keys": 6, "seen_test": 4}.items():
            for rank in RANKS:
                file[f"{split}/{rank}_list"] = [
                    f"{rank} {row % 3}".encode() for row in range(count)
                ]
            file[f"{split}/sampleid"] = [f"s{row}".encode() for row in range(count)]
            file[f"{split}/encoded_image_feature"] = np.ones((count, 3), np.float32)
        edit(file)
    return path


def test_half_precision_is_written_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_embeddings, "_ROWS_AT_ONCE", 4)
    values = torch.randn(10, 3).half()
    sets = EvaluatedSets(
        {role: Embeddings(torch.full((10, 4), -1), rgb=values) for role in ("keys", "seen")},
        {role: Specimens(as_table({}, 10)) for role in ("keys", "seen")},
        "test",
    )
    path = save_embeddings(sets, tmp_path)
    with h5py.File(path) as file:
        assert file["all_keys/encoded_image_feature"].dtype == np.float32
        np.testing.assert_array_equal(file["all_keys/encoded_image_feature"], values.float())
        assert set(file["all_keys/species_list"]) == {b"not_classified"}
    assert load_embeddings(tmp_path).embeddings["seen"].rgb.equal(values.float())


def replace(name, values):
    def edit(file):
        if name in file:
            del file[name]
        file[name] = values

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            replace("all_keys/species_list", [b"a", b"b"]),
            "bad.hdf5, /all_keys: columns differ in length: sampleid 6, .*species_list 2",
        ),
        (replace("seen_test/sampleid", [b"a"]), "/seen_test: columns differ .*sampleid 1"),
        (replace("all_keys/is_seen", [True]), r"/all_keys: is_seen has shape \(1,\), .* 6 keys"),
        (
            replace("all_keys/encoded_dna_feature", [b"a"] * 6),
            "/all_keys: /all_keys/encoded_dna_feature holds .*must hold numbers",
        ),
        (replace("seen_keys/genus_list", [b"a"]), "/seen_keys lacks species_list"),
    ],
)
def test_a_damaged_file_is_said_to_be(tmp_path, edit, message):
    with pytest.raises(ValueError, match=message):
        load_embeddings(write(tmp_path / "bad.hdf5", edit))


def test_keys_of_no_known_species_are_not_seen(tmp_path):
    def edit(file):
        replace("all_keys/species_list", [b"a", b"b", b"not_classified", b"", b"a", b"c"])(file)
        replace("seen_keys/species_list", [b"a", b"not_classified", b"c"])(file)

    loaded = load_embeddings(write(tmp_path / "some.hdf5", edit))
    assert loaded.seen_key.tolist() == [True, False, False, False, True, True]


def test_no_such_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere\. Name a run's output"):
        load_embeddings(tmp_path / "nowhere")
