"""What is saved comes back, and what CLIBD's tools save can be read."""

import h5py
import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.taxonomy import taxon_code
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings, save_embeddings
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.specimens import Specimens, as_table
from projects.bioscan_clip.scoring.embeddings import Embeddings

NAMES = np.array(
    [
        [b"Diptera", b"Syrphidae", b"Syrphus", b"Syrphus ribesii"],
        [b"Diptera", b"Syrphidae", b"not_classified", b"not_classified"],
        ["Coléoptera".encode(), b"Carabidae", b"Carabus", b"Carabus auratus"],
    ]
)
RANKS = ("order", "family", "genus", "species")
LABELS = torch.tensor([[taxon_code(name) for name in row] for row in NAMES])


def sets(stage="test", roles=("keys", "seen", "unseen", "tuning_seen", "tuning_unseen")):
    columns = dict(zip(RANKS, NAMES.T, strict=True)) | {"sampleid": np.array([b"s1", b"s2", b"s3"])}
    embeddings = {
        role: Embeddings(LABELS, rgb=torch.randn(3, 4), dna=torch.randn(3, 4)) for role in roles
    }
    specimens = {role: Specimens(as_table(columns, 3)) for role in roles}
    return EvaluatedSets(embeddings, specimens, stage, torch.tensor([True, False, True]))


@pytest.mark.parametrize("stage", ["test", "val"])
def test_round_trip(tmp_path, stage):
    roles = ("keys", "seen", "unseen", "tuning_seen", "tuning_unseen")[
        : 5 if stage == "test" else 3
    ]
    saved = sets(stage, roles)
    save_embeddings(saved, tmp_path)
    for path in (tmp_path, tmp_path / "embeddings.hdf5"):
        loaded = load_embeddings(path)
        assert loaded.stage == stage
        assert loaded.seen_key.equal(saved.seen_key)
        assert set(loaded.embeddings) == set(roles)
        for role, values in saved.embeddings.items():
            assert loaded.embeddings[role].labels.equal(LABELS)
            assert loaded.embeddings[role].rgb.equal(values.rgb)
            assert loaded.embeddings[role].dna.equal(values.dna)
            assert loaded.embeddings[role].text is None
            assert loaded.specimens[role].table.equals(saved.specimens[role].table)


def write_clibd(path, features=("image", "dna", "language"), identifier="processid"):
    with h5py.File(path, "w") as file:
        for column, rank in enumerate(RANKS):
            file[f"{rank}_list"] = [name.decode() for name in NAMES[:, column]]  # strings
        file[identifier] = [b"p1", b"p2", b"p3"]
        for number, name in enumerate(features):
            file[f"encoded_{name}_feature"] = np.full((3, 4), number + 1, dtype=np.float64)


def test_a_folder_of_clibd(tmp_path):
    for split in ("all_keys", "seen_val", "unseen_val", "train_seen", "seen_test"):
        write_clibd(tmp_path / f"extracted_features_of_{split}.hdf5")
    with h5py.File(tmp_path / "extracted_features_of_seen_keys.hdf5", "w") as file:
        file["species_list"] = [b"Carabus auratus"]
    loaded = load_embeddings(tmp_path)
    assert loaded.stage == "test"
    assert set(loaded.embeddings) == {"keys", "seen", "tuning_seen", "tuning_unseen"}
    assert loaded.embeddings["keys"].text.mean() == 3
    assert loaded.embeddings["seen"].labels.equal(LABELS)
    assert loaded.specimens["seen"].table["processid"].tolist() == ["p1", "p2", "p3"]
    assert loaded.specimens["seen"].table["genus"].isna().tolist() == [False, True, False]
    assert loaded.seen_key.tolist() == [False, False, True]


def test_what_cannot_be_scored_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds neither embeddings\.hdf5 nor files named"):
        load_embeddings(tmp_path)
    write_clibd(tmp_path / "extracted_features_of_all_keys.hdf5")
    with pytest.raises(ValueError, match="holds no queries"):
        load_embeddings(tmp_path)
    write_clibd(tmp_path / "extracted_features_of_seen_val.hdf5", features=())
    with pytest.raises(ValueError, match=r"seen_val.hdf5, / lacks one of encoded_image_feature"):
        load_embeddings(tmp_path)
    (tmp_path / "extracted_features_of_all_keys.hdf5").unlink()
    with pytest.raises(
        ValueError, match="holds no embeddings of all_keys; its splits are: seen_val"
    ):
        load_embeddings(tmp_path)
    (tmp_path / "text.hdf5").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"text\.hdf5"):
        load_embeddings(tmp_path / "text.hdf5")


def test_damaged_embeddings_are_named(tmp_path):
    for split in ("all_keys", "seen_val"):
        write_clibd(tmp_path / f"extracted_features_of_{split}.hdf5")
    with h5py.File(tmp_path / "extracted_features_of_seen_val.hdf5", "a") as file:
        file["encoded_dna_feature"][1] = np.nan
    with pytest.raises(ValueError, match=r"seen_val.hdf5, /: 1 of 3 `dna` embeddings hold NaN"):
        load_embeddings(tmp_path)
    with h5py.File(tmp_path / "extracted_features_of_seen_val.hdf5", "a") as file:
        del file["encoded_dna_feature"]
        file["encoded_dna_feature"] = np.ones((2, 4))
    with pytest.raises(ValueError, match=r"`dna` must have shape \(N, D\) with N = 3"):
        load_embeddings(tmp_path)


def test_restricted_keys_keep_their_names():
    restricted = sets().restricted_to({"order": "Diptera"})
    assert len(restricted.embeddings["keys"]) == 2
    assert restricted.specimens["keys"].table["sampleid"].tolist() == ["s1", "s2"]
    assert restricted.seen_key.tolist() == [True, False]
    assert len(restricted.embeddings["seen"]) == 3
