"""A canvas on which shapes given in an insect's own coordinates become an image."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.complex128]
Colour = tuple[float, float, float]

SUPERSAMPLING: Final = 2


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


def _flat(points: Points) -> list[float]:
    flat: list[float] = points.view(np.float64).tolist()  # real and imaginary parts in turn
    return flat


def _paint(colour: Colour, alpha: float) -> tuple[int, int, int, int]:
    red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in colour)
    return red, green, blue, round(255 * alpha)
