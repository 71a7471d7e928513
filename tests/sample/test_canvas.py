import numpy as np
import pytest
from PIL import Image

from projects.bioscan_clip.sample.canvas import Canvas, Lobe, Pose, mix

SQUARE = np.array([0.25 + 0.25j, 0.25 - 0.25j, -0.25 - 0.25j, -0.25 + 0.25j])
WHITE = (255, 255, 255)
LOBE = Lobe(base=1 + 1j, axis=2 + 0j, left=0.5, right=0.25, peak=0.5, taper=1.0)


def canvas(turn: complex = 40 + 0j) -> Canvas:
    pose = Pose(centre=50 + 30j, turn=turn, squash=1.0, bend=0.0)
    return Canvas(Image.new("RGB", (100, 60), WHITE), pose)


def test_a_shape_is_drawn_where_the_pose_puts_it():
    drawn = canvas()
    drawn.fill(SQUARE, (1, 0, 0))
    drawn.lift(SQUARE, 0.5)
    colour, height, cover = drawn.finish()
    assert colour.shape == (60, 100, 3)
    assert colour[30, 50].tolist() == [255, 0, 0]
    assert colour[30, 65].tolist() == list(WHITE)
    assert height.getpixel((50, 30)) == 128
    assert cover.getpixel((50, 30)) == 255
    assert cover.getbbox() == height.getbbox() == (40, 20, 61, 41)


def test_edges_are_antialiased():
    drawn = canvas(turn=40 * np.exp(0.3j))
    drawn.fill(SQUARE, (0, 0, 0))
    grey = drawn.finish()[0][..., 0]
    assert ((grey > 20) & (grey < 235)).any()


def test_transparent_paint_lets_the_background_through():
    drawn = canvas()
    drawn.fill(SQUARE, (0, 0, 0), alpha=0.5)
    assert abs(drawn.finish()[0][30, 50, 0] - 127) <= 2


def test_a_mirrored_pose_swaps_left_and_right():
    left = np.array([0.1 + 0.2j])
    poses = [Pose(0j, 1 + 0j, squash, 0.0) for squash in (1.0, -1.0)]
    here, there = (pose.place(left) for pose in poses)
    np.testing.assert_allclose(here, there.conj())


@pytest.mark.parametrize(
    ("u", "v", "expected"),
    [(0, 0, 1 + 1j), (1, 0, 3 + 1j), (0.5, 1, 2 + 1.5j), (0.5, -1, 2 + 0.75j), (1, 1, 3 + 1j)],
)
def test_positions_are_relative_to_axis_and_edges(u, v, expected):
    np.testing.assert_allclose(LOBE.at(u, v), expected)


def test_patterns_stay_within_the_outline():
    for pattern in (LOBE.band(0.4, 1.4), LOBE.spot(0.9, 0.9, 0.5)):
        along = (pattern - LOBE.base).real / 2
        across = (pattern - LOBE.base).imag
        edge = 2 * np.sqrt(np.clip(along * (1 - along), 0, None))
        assert (across <= 0.5 * edge + 1e-9).all()
        assert (across >= -0.25 * edge - 1e-9).all()


def test_mixing_is_clipped():
    assert mix((0, 0, 0), (1, 0.5, 0), 0.5) == (0.5, 0.25, 0)
    assert mix((0, 0, 0), (1, 0.5, 0), 7.0) == (1, 0.5, 0)
