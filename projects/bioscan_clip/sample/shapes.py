"""The shapes that insects are made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.sample.canvas import Canvas, Colour, Points

_AROUND = np.linspace(0, 2 * np.pi, 14)
_ALONG = (1 - np.cos(np.linspace(0, np.pi, 20))) / 2
_THERE_AND_BACK = np.concatenate([_ALONG, _ALONG[::-1]])
_LEFT_THEN_RIGHT = np.repeat([1.0, -1.0], len(_ALONG))


@dataclass(frozen=True)
class Lobe:
    """A head, thorax, abdomen or wing: an outline that swells and narrows along an axis.

    Positions on it are ``u``, from 0 at its base to 1 at its tip, and ``v``, from -1 on its right
    edge to 1 on its left edge, so that patterns given in them stay within any outline.
    """

    base: complex
    axis: complex
    left: float
    right: float
    peak: float = 0.5
    taper: float = 1.0

    def at(self, u: npt.ArrayLike, v: npt.ArrayLike) -> Points:
        """Return where positions on the lobe are on the insect."""
        u, v = np.minimum(np.maximum(u, 0.0), 1.0), np.minimum(np.maximum(v, -1.0), 1.0)
        rise, fall = self.peak * self.taper, (1 - self.peak) * self.taper
        width = u**rise * (1 - u) ** fall / (self.peak**rise * (1 - self.peak) ** fall)
        side = np.where(v > 0, self.left, self.right) * v * width
        points: Points = self.base + self.axis * u + 1j * self.axis / abs(self.axis) * side
        return points

    def outline(self, share: float = 1.0) -> Points:
        """Return the lobe's edge, or a smaller one inside it."""
        return self.at(0.5 + (_THERE_AND_BACK - 0.5) * share, _LEFT_THEN_RIGHT * share)

    def band(self, start: float, end: float) -> Points:
        """Return a band across the lobe."""
        there = np.linspace(start, end, 6)
        return self.at(np.concatenate([there, there[::-1]]), np.repeat([1.0, -1.0], 6))

    def spot(self, u: float, v: float, size: float) -> Points:
        """Return a spot whose radius is `size` times the lobe's length."""
        across = size * abs(self.axis) / max(self.left, self.right)
        return self.at(u + size * np.cos(_AROUND), v + across * np.sin(_AROUND))


def mould(canvas: Canvas, lobe: Lobe, colour: Colour) -> None:
    """Fill a lobe, and raise it to a dome as high as it is wide."""
    canvas.fill(lobe.outline(), colour)
    for share in (1.0, 0.92, 0.8, 0.65, 0.45, 0.2):
        canvas.lift(lobe.outline(share), min(np.sqrt(1.05 - share**2) * lobe.left * 3.4, 1.0))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the first colour with a share of the second; shares beyond 0 to 1 are clipped."""
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue
