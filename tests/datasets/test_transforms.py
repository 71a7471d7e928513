"""Expected pictures come from the reference (fixtures/parity) and from torchvision."""

import math

import numpy as np
import pytest
import torch
from torchvision.io import decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from projects.bioscan_clip.datasets.augmentation import Augmentation
from projects.bioscan_clip.datasets.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    POSE,
    evaluation_view,
    finish,
    finish_batch,
    training_view,
)

STD = torch.tensor(CLIP_STD)[:, None, None]


def random_photos(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator())


def normalised(photos: torch.Tensor) -> torch.Tensor:
    return F.normalize(F.to_dtype(photos, torch.float32, scale=True), CLIP_MEAN, CLIP_STD)


def pose(flip_x: int, flip_y: int, degrees: float) -> torch.Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[flip_x], [flip_y]]) * torch.tensor([[cosine, -sine], [sine, cosine]])


@pytest.mark.parametrize("number", range(4))
def test_evaluation_equals_reference(parity, number):
    reference = np.load(parity / "eval_images.npz")
    photo = decode_image(torch.from_numpy(reference[f"jpeg{number}"]))
    expected = torch.from_numpy(reference[f"tensor{number}"].astype(np.float32))
    difference = ((finish(evaluation_view(photo, 224)[None])[0] - expected) * STD).abs()
    assert difference.mean() < 0.004
    assert difference.max() < 0.03


@pytest.mark.parametrize("shape", [(256, 341), (300, 256), (60, 90)])
def test_evaluation_view_is_the_centre_of_the_resized_photo(shape):
    photo = random_photos(3, *shape)
    expected = F.center_crop(F.resize(photo, [256]), [224, 224])
    assert evaluation_view(photo, 224).equal(expected)


def test_training_view_is_the_drawn_part():
    photo = random_photos(3, 100, 120)
    drawn = Augmentation(10, 20, 60, 80, pose(1, 1, 0).numpy())
    expected = F.resized_crop(photo, 10, 20, 60, 80, [48, 48])
    assert training_view(photo, 48, drawn).equal(expected)


@pytest.mark.parametrize("flip_x", [1, -1])
@pytest.mark.parametrize("flip_y", [1, -1])
@pytest.mark.parametrize("degrees", [0.0, 44.9, -17.0])
def test_finish_flips_then_rotates_as_torchvision_does(flip_x, flip_y, degrees):
    """The published recipe normalises, flips, rotates by the nearest pixel and fills with zero."""
    photos = random_photos(6, 3, 65, 65)
    expected = normalised(photos)
    expected = F.horizontal_flip(expected) if flip_x < 0 else expected
    expected = F.vertical_flip(expected) if flip_y < 0 else expected
    expected = F.rotate(expected, degrees, interpolation=InterpolationMode.NEAREST, fill=0)
    finished = finish(photos, pose(flip_x, flip_y, degrees).expand(6, 2, 2))
    differing = ((finished - expected).abs().amax(dim=1) > 1e-5).float().mean()
    assert differing < 1e-3  # rounding of places half-way between two pixels


def test_finish_takes_each_photo_by_its_own_pose():
    photos = random_photos(9, 3, 16, 16)  # more than are finished at once
    poses = torch.stack([pose(1, -1, 5.0 * number) for number in range(9)])
    alone = [finish(photos[i : i + 1], poses[i : i + 1]) for i in range(9)]
    assert finish(photos, poses).equal(torch.cat(alone))


def test_finish_without_poses_normalises():
    photos = random_photos(5, 3, 8, 8)
    assert finish(photos).allclose(normalised(photos), atol=1e-6)
    assert finish(photos[:0]).shape == (0, 3, 8, 8)


def test_finish_batch_leaves_features_as_they_are():
    features = {"rgb": torch.randn(2, 512), "dna": torch.ones(2, 3)}
    assert finish_batch(features) is features
    batch = {"rgb": random_photos(2, 3, 8, 8), POSE: pose(1, 1, 9).expand(2, 2, 2), "dna": 1}
    finished = finish_batch(batch)
    assert finished["rgb"].equal(finish(batch["rgb"], batch[POSE]))
    assert set(finished) == {"rgb", "dna"}
