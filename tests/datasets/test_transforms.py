"""Expected pictures come from the reference (fixtures/parity) and from torchvision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.io import decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from projects.bioscan_clip.datasets.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    POSE,
    Augmentation,
    draw_augmentation,
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


DRAWS = 4000


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32))
def test_crop_is_inside_the_photo(height, width, seed):
    drawn = draw_augmentation(height, width, np.random.default_rng(seed))
    assert drawn.height > 0
    assert drawn.width > 0
    assert 0 <= drawn.top <= height - drawn.height
    assert 0 <= drawn.left <= width - drawn.width


def test_same_seed_same_augmentation():
    first, second = (draw_augmentation(256, 341, np.random.default_rng((1, 2, 3))) for _ in "ab")
    assert (first.top, first.left, first.height) == (second.top, second.left, second.height)
    assert (first.pose == second.pose).all()


@pytest.mark.parametrize("size", [(256, 341), (256, 256), (40, 400)])
def test_crops_are_distributed_as_torchvision_draws_them(size):
    """Means and deviations of the four numbers of a crop, within five standard errors."""
    rng = np.random.default_rng(0)
    drawn = [draw_augmentation(*size, rng) for _ in range(DRAWS)]
    ours = np.array([[crop.top, crop.left, crop.height, crop.width] for crop in drawn])
    torch.manual_seed(0)
    transform, photo = RandomResizedCrop(224), torch.zeros(3, *size)
    theirs = np.array(
        [
            [params[name] for name in ("top", "left", "height", "width")]
            for params in (transform.make_params([photo]) for _ in range(DRAWS))
        ]
    )
    error = 5 * theirs.std(axis=0) * np.sqrt(2 / DRAWS)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= error + 1e-9).all()
    assert ours.std(axis=0) == pytest.approx(theirs.std(axis=0), rel=0.1, abs=0.3)


def test_pose_is_a_rotation_within_45_degrees_after_flips():
    rng = np.random.default_rng(0)
    poses = np.stack([draw_augmentation(10, 10, rng).pose for _ in range(DRAWS)])
    assert poses @ poses.transpose(0, 2, 1) == pytest.approx(
        np.broadcast_to(np.eye(2), poses.shape), abs=1e-6
    )
    cosines, signs = np.abs(poses[:, 0, 0]), np.sign(poses[:, [0, 1], [0, 1]])
    assert cosines.min() >= np.cos(np.pi / 4) - 1e-6
    angles = np.degrees(np.arcsin(-poses[:, 0, 1] * signs[:, 0]))
    assert np.abs(angles).max() > 44
    assert abs(angles.mean()) < 5 * 26 / np.sqrt(DRAWS)
    assert np.abs((signs > 0).mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(DRAWS)
    assert abs((signs[:, 0] * signs[:, 1]).mean()) < 5 / np.sqrt(DRAWS)  # independent flips
