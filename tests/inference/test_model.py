import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.inference import Encoded, load_model

SPLITS = ("test_seen", "test_unseen", "all_keys")


@pytest.fixture(scope="module")
def model(run):
    return load_model(run / "train", device="cpu")


@pytest.fixture(scope="module")
def specimens(sample_file):
    """Photos, barcodes and names of the splits that are evaluated, as files hold them."""
    splits = {}
    with h5py.File(sample_file) as file:
        for split in SPLITS:
            group = file[split]
            photos = [
                row[:length].tobytes()
                for row, length in zip(group["image"], group["image_mask"], strict=True)
            ]
            names = [
                " ".join(label.decode() for label in labels if label != b"not_classified")
                for labels in zip(*(group[rank] for rank in RANKS), strict=True)
            ]
            splits[split] = photos, [barcode.decode() for barcode in group["barcode"]], names
    return splits


@pytest.mark.parametrize("kind", ["run", "adapted_run", "named_run"])
def test_embeddings_equal_those_of_an_evaluation_to_the_last_bit(kind, specimens, request):
    run = request.getfixturevalue(kind)
    model = load_model(run / "train", device="cpu")
    with h5py.File(run / "eval" / "embeddings.hdf5") as file:
        for split, (photos, barcodes, names) in specimens.items():
            saved = file[split]
            for feature, embeddings in (
                ("image", model.encode_image(photos, batch_size=13)),
                ("dna", model.encode_dna(barcodes, place=False)),
                ("language", model.encode_text(names)),
            ):
                assert embeddings.dtype == np.float32
                np.testing.assert_array_equal(embeddings, saved[f"encoded_{feature}_feature"])


def test_an_encoder_of_another_name_keeps_its_own_preprocessing(named_run):
    preprocessing = load_model(named_run / "train").configuration["modalities"]["rgb"]
    assert preprocessing["preprocessing"] == {
        "image_size": 28,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
    }


def test_a_checkpoint_and_its_run_s_folder_are_the_same_model(run, model):
    checkpoint = run / "train" / "checkpoints" / "best.ckpt"
    assert load_model(str(checkpoint)).hash == model.hash
    assert load_model(run / "train" / "checkpoints" / "last.ckpt").dimension == 128
    assert model.modalities == ("rgb", "dna", "text")
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert model.logit_scale == pytest.approx(float(weights["log_logit_scale"].exp()))


def test_an_older_checkpoint_is_read_with_its_run(run, model, specimens, sample_file, tmp_path):
    content = torch.load(run / "train" / "checkpoints" / "best.ckpt", weights_only=True)
    described = content.pop("bioscan_clip")
    older = tmp_path / "checkpoints" / "best.ckpt"
    older.parent.mkdir()
    torch.save(content, older)
    with pytest.raises(FileNotFoundError, match=r"older version .* \.hydra/config\.yaml does"):
        load_model(older)

    (tmp_path / ".hydra").symlink_to(run / "train" / ".hydra")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BIOSCAN_SAMPLE_HDF5", str(sample_file))
        read = load_model(tmp_path)
    expected = described["modalities"]["dna"]["reference_barcodes"]
    assert read.configuration["modalities"]["dna"]["reference_barcodes"] == expected
    photos, barcodes, names = specimens["test_seen"]
    np.testing.assert_array_equal(read.encode_image(photos), model.encode_image(photos))
    np.testing.assert_array_equal(read.encode_dna(barcodes), model.encode_dna(barcodes))
    np.testing.assert_array_equal(read.encode_text(names), model.encode_text(names))


def test_hash_changes_with_a_weight_and_with_preparation(run, model, tmp_path):
    content = torch.load(run / "train" / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["heads.text.0.bias"][3] += 1e-6
    torch.save(content, tmp_path / "weight.ckpt")
    content = torch.load(run / "train" / "checkpoints" / "best.ckpt", weights_only=True)
    content["bioscan_clip"]["modalities"]["rgb"]["preprocessing"]["mean"][0] = 0.5
    torch.save(content, tmp_path / "mean.ckpt")
    hashes = {load_model(tmp_path / f"{name}.ckpt").hash for name in ("weight", "mean")}
    assert len(hashes | {model.hash}) == 3


def test_placed_barcodes_are_embedded_as_whole_ones(model, specimens):
    wholes = [barcode for barcode in specimens["test_seen"][1] if len(barcode) == 658]
    expected = model.encode_dna(wholes)
    complement = str.maketrans("ACGTN", "TGCAN")
    for changed in (
        [barcode.lower() for barcode in wholes],
        [barcode.translate(complement)[::-1] for barcode in wholes],
        ["GGTCAACAAATCATAAAGATATTGG" + barcode + "TGATTTTTTGG" for barcode in wholes],
    ):
        np.testing.assert_array_equal(model.encode_dna(changed), expected)
    cut = model.encode_dna([barcode[1:] for barcode in wholes], on_error="skip")
    padded = model.encode_dna(["N" + barcode[1:] for barcode in wholes], place=False)
    np.testing.assert_array_equal(cut.embeddings, padded)
    assert cut.notes[0] == "begins at base 2"


def test_equal_texts_are_encoded_once(model, specimens, monkeypatch):
    encoded = []
    embed = model._embed

    def count(modality, batch):
        encoded.append(len(batch[modality]))
        return embed(modality, batch)

    monkeypatch.setattr(model, "_embed", count)
    name, other = "Diptera Culicidae", "Coleoptera"
    embeddings = model.encode_text([name, other, name, name], batch_size=1)
    assert sum(encoded) == 2
    np.testing.assert_array_equal(embeddings[0], embeddings[3])
    barcode = specimens["test_seen"][1][0]
    model.encode_dna([barcode, barcode.lower(), "-" + barcode])
    assert sum(encoded) == 3


def test_broken_input_is_named_or_skipped(model, specimens, tmp_path):
    photos, barcodes, _ = specimens["test_seen"]
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    broken = [photos[0], tmp_path / "page.jpg", photos[1], str(tmp_path / "none.jpg")]
    with pytest.raises(
        ValueError, match=r"Photo 2 cannot be embedded: .*page\.jpg: it is no photo"
    ):
        model.encode_image(broken)
    skipped = model.encode_image(broken, on_error="skip", batch_size=2)
    assert isinstance(skipped, Encoded)
    assert skipped.errors.keys() == {1, 3}
    assert skipped.errors[3].endswith("none.jpg: there is no such file.")
    assert np.isnan(skipped.embeddings[[1, 3]]).all()
    np.testing.assert_array_equal(skipped.embeddings[[0, 2]], model.encode_image(photos[:2]))

    with pytest.raises(ValueError, match="Barcode 2 cannot be embedded: The barcode is empty"):
        model.encode_dna([barcodes[0], ""])
    skipped = model.encode_dna([barcodes[0], "!", barcodes[0]], on_error="skip")
    assert skipped.errors.keys() == {1}
    np.testing.assert_array_equal(skipped.embeddings[0], skipped.embeddings[2])
    with pytest.raises(ValueError, match="Name 1 cannot be embedded: The name is empty"):
        model.encode_text([" "])


def test_nothing_gives_nothing(model):
    assert model.encode_image([]).shape == (0, 128)
    assert model.encode_dna([]).shape == (0, 128)
    assert model.encode_text([]).shape == (0, 128)


def test_checkpoints_that_cannot_be_used(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*best\.ckpt"):
        load_model(tmp_path)
    content = torch.load(run / "train" / "checkpoints" / "best.ckpt", weights_only=True)

    def save(**changes):
        torch.save(content | changes, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    newer = content["bioscan_clip"] | {"format_version": 2}
    with pytest.raises(ValueError, match="in format 2, but this version reads format 1"):
        load_model(save(bioscan_clip=newer))
    with pytest.raises(ValueError, match="only what was trained"):
        load_model(save(pretrained_weights={}))
    with pytest.raises(ValueError, match=r"does not fit this Network(.|\n)*missing: heads\.text"):
        load_model(
            save(state_dict={k: v for k, v in content["state_dict"].items() if "heads" not in k})
        )
    foreign = json.loads(json.dumps(content["bioscan_clip"]))
    foreign["modalities"]["rgb"]["encoder"]["_target_"] = "os.system"
    with pytest.raises(ValueError, match=r"the encoder os\.system can be evaluated"):
        load_model(save(bioscan_clip=foreign))


def test_a_missing_modality_is_named(run, tmp_path):
    content = torch.load(run / "train" / "checkpoints" / "best.ckpt", weights_only=True)
    del content["bioscan_clip"]["modalities"]["text"]
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "text" not in k}
    torch.save(content, tmp_path / "image_dna.ckpt")
    model = load_model(tmp_path / "image_dna.ckpt")
    assert model.modalities == ("rgb", "dna")
    with pytest.raises(ValueError, match="no encoder of names: it was trained on photos and barc"):
        model.encode_text(["Diptera"])


def test_neither_lightning_nor_hydra_is_imported(run):
    script = (
        "import sys; from projects.bioscan_clip.inference import load_model;"
        f"load_model({str(run / 'train')!r}).encode_text(['Diptera']);"
        "heavy = {'lightning', 'hydra', 'mmlearn', 'pandas', 'h5py'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
