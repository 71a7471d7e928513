"""What is saved comes back, and what CLIBD's tools save can be read."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.schema import EVALUATION_SPLITS, RANKS
from projects.bioscan_clip.datasets.taxonomy import taxon_code
from projects.bioscan_clip.reports import saved_embeddings
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings, save_embeddings
from projects.bioscan_clip.scoring.specimens import Specimens, table_of

NAMES = np.array(
    [
        [b"Diptera", b"Syrphidae", b"Syrphus", b"Syrphus ribesii"],
        [b"Diptera", b"Syrphidae", b"not_classified", b"not_classified"],
        ["Coléoptera".encode(), b"Carabidae", b"Carabus", b"Carabus auratus"],
    ]
)
LABELS = torch.tensor([[taxon_code(name) for name in row] for row in NAMES])


def make_sets(splits):
    columns = dict(zip(RANKS, NAMES.T, strict=True)) | {"sampleid": np.array([b"s1", b"s2", b"s3"])}
    sets = {
        role: Specimens(
            LABELS,
            rgb=torch.randn(3, 4),
            dna=torch.randn(3, 4),
            table=table_of(columns, 3),
            splits=tuple(split.split(" + ")),
        )
        for role, split in splits.items()
    }
    sets["keys"] = replace(sets["keys"], is_seen=torch.tensor([True, False, True]))
    return sets


@pytest.mark.parametrize(
    ("stage", "splits"),
    [
        ("test", EVALUATION_SPLITS["test"]),
        ("val", EVALUATION_SPLITS["val"]),
        # A test may score validation data, keys may be of several splits, or be queries too.
        ("test", EVALUATION_SPLITS["val"]),
        ("test", {"keys": "seen_keys + val_unseen_keys", "unseen": "val_unseen"}),
        ("val", {"keys": "val_seen", "seen": "val_seen"}),
    ],
)
def test_round_trip(tmp_path, stage, splits):
    saved = make_sets(splits)
    save_embeddings(saved, stage, tmp_path)
    for path in (tmp_path, tmp_path / "embeddings.hdf5"):
        sets, found = load_embeddings(path)
        assert found == stage
        assert sets["keys"].is_seen.equal(saved["keys"].is_seen)
        assert set(sets) == set(splits)
        for role, specimens in saved.items():
            assert sets[role].splits == specimens.splits
            assert sets[role].labels.equal(LABELS)
            assert sets[role].rgb.equal(specimens.rgb)
            assert sets[role].dna.equal(specimens.dna)
            assert sets[role].text is None
            assert sets[role].table.equals(specimens.table)


def test_groups_are_named_after_splits(tmp_path):
    """As the data file names them, not after the stage: a test may score validation data."""
    with h5py.File(save_embeddings(make_sets(EVALUATION_SPLITS["val"]), "test", tmp_path)) as file:
        assert set(file) == {"all_keys", "val_seen", "val_unseen"}


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
    sets, stage = load_embeddings(tmp_path)
    assert stage == "test"
    assert sets["seen"].splits == ("test_seen",)
    assert set(sets) == {"keys", "seen", "tuning_seen", "tuning_unseen"}
    assert sets["keys"].text.mean() == 3
    assert sets["seen"].labels.equal(LABELS)
    assert sets["seen"].table["processid"].tolist() == ["p1", "p2", "p3"]
    assert sets["seen"].table["genus"].isna().tolist() == [False, True, False]
    assert sets["keys"].is_seen.tolist() == [False, False, True]


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
        ValueError, match=r"no embeddings of keys \(all_keys\); its splits: seen_val"
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


def write_file(path, edit=lambda file: None):
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
    specimens = Specimens(torch.full((10, 4), -1), rgb=values, table=table_of({}, 10))
    path = save_embeddings({"keys": specimens, "seen": specimens}, "test", tmp_path)
    with h5py.File(path) as file:
        assert file["all_keys/encoded_image_feature"].dtype == np.float32
        np.testing.assert_array_equal(file["all_keys/encoded_image_feature"], values.float())
        assert set(file["all_keys/species_list"]) == {b"not_classified"}
    assert load_embeddings(tmp_path)[0]["seen"].rgb.equal(values.float())


def put(name, values):
    def edit(file):
        column = "/".join(name.split("/")[:2])
        if column in file:
            del file[column]
        file[name] = values

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            put("all_keys/species_list", [b"a", b"b"]),
            "bad.hdf5, /all_keys: columns differ in length: sampleid 6, .*species_list 2",
        ),
        (put("seen_test/sampleid", [b"a"]), "/seen_test: columns differ .*sampleid 1"),
        (put("all_keys/is_seen", [True]), r"/all_keys: `is_seen` has 1 rows, but `labels` has 6"),
        (
            put("all_keys/encoded_dna_feature", [b"a"] * 6),
            "/all_keys: encoded_dna_feature holds .*must hold numbers in 2 dimensions",
        ),
        (
            put("seen_test/encoded_dna_feature/values", [1.0]),
            "/seen_test: encoded_dna_feature is a group, but must be a column of numbers",
        ),
        (
            put("seen_test/species_list/values", [b"a"]),
            "/seen_test: species_list is a group, but must be a column of texts",
        ),
        (put("seen_test/sampleid", [1, 2, 3, 4]), "sampleid holds int64 .* must hold texts"),
        (put("seen_keys/genus_list", [b"a"]), "/seen_keys lacks species_list"),
        (put("all_keys", h5py.ExternalLink("other", "/")), "all_keys is a link to another file"),
        (put("seen_test/species_list", h5py.SoftLink("/no")), "species_list .* a link to nothing"),
    ],
)
def test_a_damaged_file_is_said_to_be(tmp_path, edit, message):
    with pytest.raises(ValueError, match=message):
        load_embeddings(write_file(tmp_path / "bad.hdf5", edit))


def test_keys_of_no_known_species_are_not_seen(tmp_path):
    def edit(file):
        put("all_keys/species_list", [b"a", b"b", b"not_classified", b"", b"a", b"c"])(file)
        put("seen_keys/species_list", [b"a", b"not_classified", b"c"])(file)

    sets, _ = load_embeddings(write_file(tmp_path / "some.hdf5", edit))
    assert sets["keys"].is_seen.tolist() == [True, False, False, False, True, True]


def test_no_such_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*nowhere\. Name a run's output"):
        load_embeddings(tmp_path / "nowhere")
