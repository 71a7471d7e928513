"""The shapes that insects are made of, and the canvas on which they become an image."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.complex128]
Colour = tuple[float, float, float]

SUPERSAMPLING: Final = 2

_AROUND = np.linspace(0, 2 * np.pi, 14)
_ALONG = (1 - np.cos(np.linspace(0, np.pi, 20))) / 2
_THERE_AND_BACK = np.concatenate([_ALONG, _ALONG[::-1]])
_LEFT_THEN_RIGHT = np.repeat([1.0, -1.0], len(_ALONG))


@dataclass(frozen=True)
class Pose:
    """How the insect lies before the camera.

    Attributes
    ----------
    centre : complex
        Where the middle of the body is, in pixels.
    turn : complex
        Body length in pixels times the direction of the head.
    squash : float
        Foreshortening across the body; negative if seen as in a mirror.
    bend : float
        Curvature of the body axis, in radians per body length.
    """

    centre: complex
    turn: complex
    squash: float
    bend: float

    def place(self, points: Points) -> Points:
        """Return where points of the insect (head at real 0.5, tail at -0.5) are, in pixels."""
        along, across = points.real, points.imag * self.squash
        bent = along + 1j * (across + 0.5 * self.bend * along**2)
        placed: Points = self.centre + self.turn * bent
        return placed


class Canvas:
    """Draws in colour, and records height, for shading, and cover, for the shadow.

    Parameters
    ----------
    background : PIL.Image.Image
        RGB image at the final size; it is drawn over at ``SUPERSAMPLING`` times that size.
    pose : Pose
        How shapes are placed.
    """

    def __init__(self, background: Image.Image, pose: Pose) -> None:
        width, height = background.size
        large = (width * SUPERSAMPLING, height * SUPERSAMPLING)
        self._colour = background.resize(large, Image.Resampling.NEAREST)
        self._height = Image.new("L", background.size)
        self._cover = Image.new("L", background.size)
        self._pens = [
            (ImageDraw.Draw(self._colour, "RGBA"), SUPERSAMPLING),
            (ImageDraw.Draw(self._height), 1),
            (ImageDraw.Draw(self._cover), 1),
        ]
        self._pose = pose

    def fill(self, outline: Points, colour: Colour, alpha: float = 1.0) -> None:
        """Fill a polygon; `colour` and `alpha` are between 0 and 1."""
        points = self._pose.place(outline)
        paint = _paint(colour, alpha)
        self._polygon(0, points, paint)
        self._polygon(2, points, paint[3])

    def lift(self, outline: Points, height: float) -> None:
        """Set the height of a polygon, between 0 and 1."""
        self._polygon(1, self._pose.place(outline), round(255 * height))

    def stroke(self, path: Points, width: float, colour: Colour, alpha: float = 1.0) -> None:
        """Draw a line as wide as `width` body lengths."""
        points = self._pose.place(path)
        pixels = width * abs(self._pose.turn)
        paint = _paint(colour, alpha)
        self._line(0, points, pixels, paint)
        self._line(2, points, pixels, paint[3])

    def finish(self) -> tuple[npt.NDArray[np.float32], Image.Image, Image.Image]:
        """Return what was drawn.

        Returns
        -------
        tuple
            Colour, float32, shape ``(H, W, 3)``, from 0 to 255; height and cover, images of mode L.
        """
        colour = np.asarray(self._colour.reduce(SUPERSAMPLING), dtype=np.float32)
        return colour, self._height, self._cover

    def _polygon(self, layer: int, points: Points, paint: int | tuple[int, ...]) -> None:
        pen, scale = self._pens[layer]
        pen.polygon(_flat(points * scale), fill=paint)

    def _line(self, layer: int, points: Points, width: float, paint: int | tuple[int, ...]) -> None:
        pen, scale = self._pens[layer]
        pen.line(_flat(points * scale), paint, max(1, round(width * scale)), joint="curve")


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


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.view(np.float64).tolist()  # real and imaginary parts in turn
    return flat


def _paint(colour: Colour, alpha: float) -> tuple[int, int, int, int]:
    red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in colour)
    return red, green, blue, round(255 * alpha)
