import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import RandomResizedCrop

from projects.bioscan_clip.datasets.augmentation import draw_augmentation

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
