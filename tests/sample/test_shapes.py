import numpy as np
import pytest

from projects.bioscan_clip.sample.shapes import Lobe, mix

LOBE = Lobe(base=1 + 1j, axis=2 + 0j, left=0.5, right=0.25, peak=0.5, taper=1.0)


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
