"""CLIBD's checkpoints, built small in its layout, give its embeddings here."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.encoders.pretrained import read_configuration, read_model
from projects.bioscan_clip.inference import load_model
from tests.encoders.clibd_layout import DIMENSION, SIZE, Clibd, seeded

BARCODES = ["ACGTN" * 100, "TTGCA" * 131 + "ACG", "GATTACA" * 30]


def saved(path: Path, older: bool = False, **options: bool) -> tuple[Path, Clibd]:
    with seeded():
        model = Clibd(**options)
    torch.save(model.checkpoint(older), path)
    return path, model


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_embeddings_equal_clibd_s(tmp_path: Path, lora: bool, older: bool) -> None:
    file, clibd = saved(tmp_path / "best.pth", older, lora=lora)
    model = load_model(file, device="cpu")
    photos = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    # Of a photo of 8/7 of the size, which is not resized, the middle is cut out.
    before = (round(SIZE * 8 / 7) - SIZE) // 2
    after = round(SIZE * 8 / 7) - SIZE - before
    framed = np.pad(photos, ((0, 0), (before, after), (before, after), (0, 0)))
    tokens = KmerTokenizer()(BARCODES)
    tokens[:, 0] = 0
    with torch.no_grad():
        rgb = clibd.photos(torch.from_numpy(photos).permute(0, 3, 1, 2) / 255)
        dna = clibd.barcodes(tokens)
    np.testing.assert_allclose(model.encode_image(list(framed)), rgb, atol=1e-6)
    np.testing.assert_allclose(model.encode_dna(BARCODES, place=False), dna, atol=1e-6)
    names = torch.randint(30522, (4, 20), generator=torch.manual_seed(0))
    mask = (torch.arange(20) < 7).long().expand(4, -1)
    with torch.no_grad():
        expected = clibd.names(names, mask)
    found = model._embed("text", {"text": names, "text_attention_mask": mask})
    np.testing.assert_allclose(found, expected, atol=1e-6)
    scale = 1 / 0.07 if older else math.exp(3)
    assert model.logit_scale == pytest.approx(scale)


def test_a_model_without_names(tmp_path: Path) -> None:
    file, _ = saved(tmp_path / "best.pth", text=False)
    configuration = read_configuration(file)
    assert list(configuration["modalities"]) == ["rgb", "dna"]
    assert configuration["origin"]["tuned"] == "all weights"
    assert load_model(file, device="cpu").dimension == DIMENSION


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    with seeded():
        weights = Clibd(text=False).checkpoint()
    words = "dna_encoder.base_dna_encoder.bert.embeddings.word_embeddings.weight"
    norm = "dna_encoder.base_dna_encoder.bert.embeddings.LayerNorm.weight"
    for changed, message in (
        ({**weights, "open_clip_model.logit_bias": torch.zeros(1)}, "OpenCLIP, which is not supp"),
        ({**weights, "image_encoder.encoder.0.weight": torch.zeros(1)}, "it has image_encoder.enc"),
        ({**weights, words: torch.zeros(258, 64)}, "barcode encoder of 258 tokens"),
        ({name: w for name, w in weights.items() if name != words}, "not whole.*word_embeddings"),
        ({name: w for name, w in weights.items() if name != norm}, "missing: .*LayerNorm"),
        ({"stem.weight": torch.zeros(1)}, "weights of another project, such as stem.weight"),
    ):
        torch.save(changed, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=f"(?s){message}"):
            load_model(tmp_path / "other.pth", device="cpu")


def test_a_torn_or_unsafe_file_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    file, _ = saved(tmp_path / "best.pth")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_model(file)
    torch.save({"image_encoder.x": torch.zeros(1), "y": print}, file)
    with pytest.raises(ValueError, match=r"no checkpoint of a training|would run"):
        read_model(file)
