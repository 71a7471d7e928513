"""The command `bzsl`, with a model that needs no training."""

import io
import re

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.inference import bzsl
from projects.bioscan_clip.inference.model import Encoded
from projects.bioscan_clip.scoring.bzsl import zero_shot
from tests.datasets.fake_insect import SPECIES, fake_insect, write_hub, write_matlab

PUBLISHED = {"BZSL": (20.83, 38.30, 26.99), "LsrGAN": (12.58, 30.41, 17.75)}


class PlainModel:
    """Embeds photos by the means of their quarters, barcodes by their bases."""

    def encode_image(self, photos, on_error):
        encoded = Encoded(np.full((len(photos), 12), np.nan, dtype=np.float32))
        for row, photo in enumerate(photos):
            try:
                pixels = np.asarray(Image.open(io.BytesIO(photo)), dtype=np.float32)
            except OSError:
                encoded.errors[row] = "it is no photo"
                continue
            encoded.embeddings[row] = pixels.reshape(2, 12, 2, 12, 3).mean(axis=(1, 3)).ravel()
        return encoded

    def encode_dna(self, barcodes, show_progress, on_error):
        encoded = Encoded(np.full((len(barcodes), 360), np.nan, dtype=np.float32))
        for row, barcode in enumerate(barcodes):
            if barcode:
                encoded.embeddings[row] = np.array(list(barcode))[:, None].repeat(4, 1).ravel() == [
                    *"ACGT" * 90
                ]
            else:
                encoded.errors[row] = "The barcode is empty."
        return encoded


@pytest.fixture
def insect(monkeypatch):
    monkeypatch.setattr(bzsl, "load_model", lambda _: PlainModel())
    return fake_insect()


def run(*arguments, status=0):
    result = CliRunner().invoke(app, ["bzsl", "model.ckpt", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def expected_of(insect, photos):
    dna = PlainModel().encode_dna(insect.barcodes, False, "skip").embeddings
    side = np.stack([np.nanmean(dna[insect.labels == label], axis=0) for label in range(SPECIES)])
    return zero_shot(photos, side, insect.labels, insect.splits)


def test_photos_of_the_hub_are_embedded_and_scored(insect, tmp_path):
    insect.barcodes[4] = ""  # of one specimen, whose species has others
    out = tmp_path / "table.csv"
    printed = run("--data", write_hub(insect, tmp_path / "hub"), "--format", "csv", "--out", out)
    photos = PlainModel().encode_image(insect.photos, "skip").embeddings
    expected = expected_of(insect, photos)
    assert 0 < expected.harmonic < 1
    table = pd.read_csv(out).set_index(["source", "split"])
    for split in ("seen", "unseen", "harmonic"):
        ours = table.loc[("this model", split), "percent"]
        assert ours == pytest.approx(100 * getattr(expected, split))
        difference = ours - table["percent"].xs(split, level="split")
        np.testing.assert_allclose(
            table["difference"].xs(split, level="split").iloc[1:], difference.iloc[1:]
        )
    for name, figures in PUBLISHED.items():
        assert tuple(table.loc[name].loc[["unseen", "seen", "harmonic"], "percent"]) == figures
    text = " ".join(printed.stdout.split())
    assert f"K {expected.chosen.neighbours}, k0 {expected.chosen.k0:g}" in text
    assert "Other data: published figures are of 2,425 unseen and 3,525 seen photos" in text
    again = run("--data", tmp_path / "hub", "--out", out, status=1)
    assert "Use --force to replace it" in again.stderr


@pytest.mark.parametrize("form", ["rich", "markdown", "latex"])
def test_published_features_stand_for_photos(insect, tmp_path, form):
    text = run("--data", write_matlab(insect, tmp_path), "--format", form).stdout
    expected = expected_of(insect, insect.features)
    row, *_ = re.findall(r"this model[ |&\d.]+", text)
    figures = [float(figure) for figure in re.findall(r"[\d.]+", row)]
    wanted = [expected.unseen, expected.seen, expected.harmonic]
    assert figures == [round(100 * value, 1) for value in wanted]
    assert "ResNet-101 features of photos, its embeddings of barcodes" in " ".join(text.split())


def test_a_photo_or_species_that_cannot_be_embedded_is_named(insect, tmp_path):
    folder = write_hub(insect, tmp_path / "photo")
    with h5py.File(folder / "INSECT_images.hdf5", "r+") as file:
        file[f"images/{insect.ids[20]}"][:] = 0
    error = run("--data", folder, status=1).stderr
    assert f"INSECT_images.hdf5, images/{insect.ids[20]}: it is no photo" in error
    rows = np.flatnonzero(insect.labels == 3)
    for row in rows:
        insect.barcodes[row] = ""
    error = run("--data", write_hub(insect, tmp_path / "barcode"), status=1).stderr
    assert f"No barcode of the species of {insect.ids[rows[0]]} can be embedded" in error
