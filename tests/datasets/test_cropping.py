"""Specimens are found on composed pictures of trays, with dust and a ruler."""

import io

import h5py
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.v2.functional import pil_to_tensor

from projects.bioscan_clip.datasets.cropping import (
    USUAL_MARGIN,
    crop_specimen,
    find_specimen,
    measure_margin,
)

WIDTH, HEIGHT = 2880, 2160
RULER = 320  # pixels at the bottom
TRAYS = 12


def compose(insect: Image.Image, rng: np.random.Generator) -> tuple[torch.Tensor, np.ndarray]:
    """Put a photo on a larger tray of its background; return also its left, top, right, bottom."""
    pixels = np.asarray(insect, dtype=np.float32)
    edge = np.concatenate([pixels[:6].reshape(-1, 3), pixels[-6:].reshape(-1, 3)])
    tone = np.median(edge, axis=0)
    coarse = np.clip(tone + rng.normal(0, 2, (5, 6, 1)), 0, 255).astype(np.uint8)
    tray = np.array(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    larger = rng.uniform(1.2, 5)
    width, height = round(insect.width * larger), round(insect.height * larger)
    left = int(rng.integers(0, WIDTH - width))
    top = int(rng.integers(0, HEIGHT - RULER - height))

    def ramp(length: int) -> np.ndarray:
        place = np.arange(length) + 1
        return np.minimum(1, np.minimum(place, place[::-1]) / (0.06 * length))

    share = (ramp(height)[:, None] * ramp(width))[..., None]
    part = tray[top : top + height, left : left + width]
    shown = np.asarray(insect.resize((width, height), Image.Resampling.BICUBIC))
    part[:] = share * shown + (1 - share) * part
    picture = Image.fromarray(tray)
    box = np.array([left, top, left + width, top + height])
    _draw_dust_and_ruler(picture, box, tone, rng)
    return pil_to_tensor(picture), box


def _draw_dust_and_ruler(picture, box, tone, rng) -> None:
    pen = ImageDraw.Draw(picture)
    for _ in range(60):
        x, y = rng.random(2) * (WIDTH, HEIGHT)
        if not (box[0] - 30 < x < box[2] + 30 and box[1] - 30 < y < box[3] + 30):
            pen.ellipse((x, y, x + rng.uniform(1, 14), y + rng.uniform(1, 14)), "dimgray")
    colour, ticks = ("ivory", "black") if rng.random() < 0.5 else ("black", "white")
    left, top = int(rng.integers(200, 700)), HEIGHT - 250
    pen.rectangle((left, top, left + 1600, top + 170), colour)
    for number, x in enumerate(range(left + 15, left + 1590, 24)):
        pen.line((x, top, x, top + (40 if number % 10 else 70)), ticks, 3)


@pytest.fixture(scope="module")
def insects(sample_file):
    with h5py.File(sample_file) as file:
        split = file["all_keys"]
        rows = range(TRAYS)
        jpegs = [split["image"][row][: split["image_mask"][row]].tobytes() for row in rows]
    return [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]


def test_specimens_on_trays_are_found(insects):
    rng = np.random.default_rng(0)
    margin = measure_margin([pil_to_tensor(insect) for insect in insects])
    assert 0.9 < margin < 1.4
    overlaps = []
    for insect in insects:
        tray, (left, top, right, bottom) = compose(insect, rng)
        crop, box = crop_specimen(tray, margin)
        assert box is not None
        assert torch.equal(crop, tray[:, box.top : box.bottom, box.left : box.right])
        # A photo's shorter side is what the margin is measured by, so the crop is about as large.
        side = min(right - left, bottom - top)
        assert 0.65 * side < crop.shape[1] < 1.5 * side
        inside = max(0, min(right, box.right) - max(left, box.left)) * max(
            0, min(bottom, box.bottom) - max(top, box.top)
        )
        overlaps.append(inside / crop[0].numel())
    assert min(overlaps) > 0.6
    assert np.mean(overlaps) > 0.85


def test_where_nothing_is_the_photo_stays_whole():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(210, 3, (3, 300, 400)).clip(0, 255).astype(np.uint8))
    assert find_specimen(noise) is None
    crop, box = crop_specimen(noise)
    assert box is None
    assert crop is noise
    assert measure_margin([noise]) == USUAL_MARGIN


def test_a_dark_background_serves_as_well():
    photo = torch.full((3, 300, 400), 20, dtype=torch.uint8)
    photo[:, 100:180, 200:260] = 150
    box = find_specimen(photo)
    assert (box.top, box.left, box.bottom, box.right) == (100, 200, 180, 260)
    assert str(box) == "x 200 to 260, y 100 to 180"


def test_a_crop_stays_within_the_photo():
    photo = torch.full((3, 300, 400), 220, dtype=torch.uint8)
    photo[:, 5:85, 310:400] = 50
    crop, box = crop_specimen(photo, margin=1.5)
    assert (box.top, box.right) == (0, 400)
    assert crop.shape == (3, 135, 135)
