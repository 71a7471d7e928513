"""Files as CLIBD's evaluation script writes them are scored as its own figures would be."""

import json

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from projects.bioscan_clip.datasets.taxonomy import taxon_code
from projects.bioscan_clip.reports.clibd_features import save_clibd
from projects.bioscan_clip.reports.predictions import save_predictions
from projects.bioscan_clip.reports.saved_embeddings import load_embeddings
from projects.bioscan_clip.scoring.evaluation import evaluate

RANKS = ("order", "family", "genus", "species")
COUNTS = {"seen": 5, "unseen": 4, "key": 7}
MODALITIES = ("image", "dna", "language")


def label(row: int) -> dict[str, str]:
    species = "not_classified" if row == 3 else f"Syrphus {row % 3}"
    return {"order": "Diptera", "family": "Syrphidae", "genus": "Syrphus", "species": species}


def write(folder, stage="test", modalities=MODALITIES, suffix=".jpg", ids=True):
    """Write float64 features of each group and further ones that are made of them."""
    path = folder / f"extracted_feature_from_{stage}_split.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, count in COUNTS.items():
            features = {kind: rng.normal(size=(count, 6)) for kind in modalities}
            for kind, values in features.items():
                file[f"{name}/encoded_{kind}_feature"] = values
            file[f"{name}/averaged_feature"] = np.mean(list(features.values()), axis=0)
            if name == "key":
                file[f"{name}/all_key_features"] = np.concatenate(list(features.values()))
    labels = {f"{name}_gt_dict": [label(row) for row in range(n)] for name, n in COUNTS.items()}
    (folder / f"labels_{stage}.json").write_text(json.dumps(labels, indent=4))
    if ids:
        named = {
            f"{name}_id_list": [f"{name}{row}{suffix}" for row in range(count)]
            for name, count in COUNTS.items()
        }
        (folder / f"processed_id_{stage}.json").write_text(json.dumps(named))
    return path


def read(path, dataset):
    with h5py.File(path) as file:
        return torch.from_numpy(file[dataset][:]).float()


@pytest.mark.parametrize("stage", ["test", "val"])
def test_features_and_labels_come_together(tmp_path, stage):
    path = write(tmp_path, stage)
    for given in (path, tmp_path):
        sets, found = load_embeddings(given)
        assert found == stage
        assert set(sets) == {"keys", "seen", "unseen"}
        assert sets["keys"].is_seen is None
        assert sets["seen"].splits == (f"{stage}_seen",)
        for role, group in {"keys": "key", "seen": "seen", "unseen": "unseen"}.items():
            specimens = sets[role]
            assert specimens.rgb.dtype == torch.float32
            assert specimens.rgb.equal(read(path, f"{group}/encoded_image_feature"))
            assert specimens.text.equal(read(path, f"{group}/encoded_language_feature"))
            species = [
                -1 if row == 3 else taxon_code(f"Syrphus {row % 3}".encode())
                for row in range(COUNTS[group])
            ]
            assert specimens.labels[:, 3].tolist() == species
            assert specimens.table["image_file"].tolist() == [
                f"{group}{row}.jpg" for row in range(COUNTS[group])
            ]
            assert specimens.table["species"].isna().tolist() == [code == -1 for code in species]


def test_accuracy_is_what_faiss_like_search_gives(tmp_path):
    """As CLIBD does it: inner products of unit vectors, and the label of the largest."""
    sets, _ = load_embeddings(write(tmp_path))
    numbers = evaluate(sets).numbers()
    path = tmp_path / "extracted_feature_from_test_split.hdf5"
    unit = {
        name: torch.nn.functional.normalize(read(path, name)).numpy()
        for name in ("seen/encoded_image_feature", "key/encoded_dna_feature")
    }
    nearest = (unit["seen/encoded_image_feature"] @ unit["key/encoded_dna_feature"].T).argmax(1)
    truth = [label(row)["species"] for row in range(5)]
    right = [label(key)["species"] == name for key, name in zip(nearest, truth, strict=True)]
    labelled = [name != "not_classified" for name in truth]
    expected = np.mean(np.array(right)[labelled])
    assert numbers["rgb_to_dna/seen/micro/top1/species"] == pytest.approx(expected)


def test_without_names_or_ids_or_a_modality(tmp_path):
    write(tmp_path, modalities=("image", "dna"), suffix="")
    sets, _ = load_embeddings(tmp_path)
    assert sets["keys"].text is None
    assert sets["seen"].table["processid"].tolist() == [f"seen{row}" for row in range(5)]
    (tmp_path / "processed_id_test.json").unlink()
    table = load_embeddings(tmp_path)[0]["seen"].table
    assert table[["processid", "image_file", "sampleid"]].isna().all(axis=None)


def test_what_is_wrong_beside_the_features_is_said(tmp_path):
    path = write(tmp_path)
    ids, labels = tmp_path / "processed_id_test.json", tmp_path / "labels_test.json"
    content = json.loads(labels.read_text())
    ids.write_text(json.dumps({"key_id_list": [1, 2]}))
    with pytest.raises(
        ValueError, match=r"processed_id_test.json must hold, as key_id_list, a list"
    ):
        load_embeddings(path)
    ids.write_text(json.dumps({"key_id_list": ["a.jpg"]}))
    with pytest.raises(
        ValueError, match=r"/key: columns differ in length: file_name 1, order_list"
    ):
        load_embeddings(path)
    ids.unlink()
    labels.write_text(json.dumps(content | {"seen_gt_dict": content["seen_gt_dict"][:2]}))
    with pytest.raises(ValueError, match=r"/seen: `rgb` must have shape \(N, D\) with N = 2"):
        load_embeddings(path)
    labels.write_text(json.dumps(content | {"key_gt_dict": [{"order": "Diptera"}]}))
    with pytest.raises(ValueError, match=r"labels_test.json must hold, as key_gt_dict, .*'family'"):
        load_embeddings(path)
    labels.write_text("[")
    with pytest.raises(ValueError, match=r"labels_test.json cannot be read as JSON"):
        load_embeddings(path)
    labels.write_text("[]")
    with pytest.raises(ValueError, match=r"labels_test.json holds no JSON object"):
        load_embeddings(path)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"without labels, and there is no .*labels_test"):
        load_embeddings(path)


def test_predictions_name_the_photo(tmp_path):
    sets, _ = load_embeddings(write(tmp_path))
    saved = pq.read_table(save_predictions(evaluate(sets), tmp_path)).to_pandas()
    rows = saved[(saved["split"] == "unseen") & (saved["query"] == "dna")]
    assert rows["image_file"].tolist() == [f"unseen{row}.jpg" for row in range(4)]
    assert rows["sampleid"].isna().all()


def clibd_script_reads(folder, stage):
    """Read files as `scripts/inference_and_eval.py` of bioscan-ml/clibd does."""
    features = (
        *("encoded_image_feature", "encoded_dna_feature", "encoded_language_feature"),
        *("averaged_feature", "concatenated_feature", "all_key_features"),
    )
    sets = {}
    with h5py.File(folder / f"extracted_feature_from_{stage}_split.hdf5") as file:
        for group in ("seen", "unseen", "key"):
            sets[group] = {name: file[group][name][:] for name in features if name in file[group]}
    labels = json.loads((folder / f"labels_{stage}.json").read_text())
    ids = json.loads((folder / f"processed_id_{stage}.json").read_text())
    for group, found in sets.items():
        found["label_list"] = labels[f"{group}_gt_dict"]
        found["processed_id_list"] = ids[f"{group}_id_list"]
    return sets


@pytest.mark.parametrize("stage", ["test", "val"])
def test_files_for_clibds_script(specimens, tmp_path, stage):
    written = save_clibd(specimens, stage, tmp_path)
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    for group, found in clibd_script_reads(tmp_path, stage).items():
        given = specimens["keys" if group == "key" else group]
        photo, barcode, text = (given.modalities[name].numpy() for name in ("rgb", "dna", "text"))
        np.testing.assert_array_equal(found["encoded_image_feature"], photo)
        np.testing.assert_array_equal(found["encoded_language_feature"], text)
        np.testing.assert_allclose(found["averaged_feature"], (photo + barcode) / 2, rtol=1e-6)
        np.testing.assert_array_equal(found["concatenated_feature"][:, 32:], barcode)
        names = given.table.fillna("not_classified")
        assert [label["species"] for label in found["label_list"]] == names["species"].tolist()
        assert set(found["label_list"][0]) == set(RANKS)
        assert found["processed_id_list"] == names["image_file"].tolist()
        if group == "key":
            every = np.concatenate([photo, barcode, text])
            np.testing.assert_array_equal(found["all_key_features"], every)
    sets, found = load_embeddings(tmp_path)
    assert found == stage
    for role, given in specimens.items():
        assert sets[role].labels.equal(given.labels)
        assert sets[role].dna.equal(given.dna)


def test_clibds_script_needs_all_sets(specimens, tmp_path):
    with pytest.raises(ValueError, match="needs keys, seen and unseen; there are no unseen"):
        save_clibd({"keys": specimens["keys"], "seen": specimens["seen"]}, "test", tmp_path)
    assert list(tmp_path.iterdir()) == []
