"""Expected pictures come from the reference's evaluation transform (fixtures/parity)."""

import numpy as np
import pytest
import torch
from torchvision.io import decode_image

from projects.bioscan_clip.datasets.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    evaluation_transform,
    training_transform,
)

MEAN = torch.tensor(CLIP_MEAN)[:, None, None]
STD = torch.tensor(CLIP_STD)[:, None, None]


@pytest.mark.parametrize("number", range(4))
def test_evaluation_transform_equals_reference(parity, number):
    reference = np.load(parity / "eval_images.npz")
    photo = decode_image(torch.from_numpy(reference[f"jpeg{number}"]))
    expected = torch.from_numpy(reference[f"tensor{number}"].astype(np.float32))
    difference = ((evaluation_transform()(photo) - expected) * STD).abs()
    assert difference.mean() < 0.004
    assert difference.max() < 0.03


def test_training_transform_is_a_normalised_crop():
    torch.manual_seed(0)
    white = torch.full((3, 256, 340), 255, dtype=torch.uint8)
    pixels = training_transform(64)(white) * STD + MEAN
    assert pixels.shape == (3, 64, 64)
    inside = pixels[:, 16:48, 16:48]
    assert inside.allclose(torch.ones_like(inside), atol=1e-5)


def test_rotation_fills_with_the_mean_colour():
    """The published recipe fills with zero after normalising, which is the mean colour."""
    torch.manual_seed(0)
    white = torch.full((3, 256, 340), 255, dtype=torch.uint8)
    corners = torch.stack([training_transform(64)(white)[:, 0, 0] for _ in range(20)])
    filled = corners[corners.abs().amax(dim=1) < 0.5]
    assert len(filled) >= 10  # most angles leave the corner empty
    assert filled.abs().max() < 0.5 / 255 / min(CLIP_STD)


def test_training_transform_flips_both_ways_and_keeps_half():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 255, 256).to(torch.uint8)
    photo = torch.stack([ramp.expand(256, 256), ramp.expand(256, 256).T, ramp.expand(256, 256)])
    crops = torch.stack([training_transform(32)(photo) for _ in range(200)])
    middle = crops[:, :, 8:24, 8:24]
    rises_right = (middle[:, 0, :, -1].mean(1) > middle[:, 0, :, 0].mean(1)).float().mean()
    rises_down = (middle[:, 1, -1].mean(1) > middle[:, 1, 0].mean(1)).float().mean()
    assert 0.35 < rises_right < 0.65
    assert 0.35 < rises_down < 0.65
