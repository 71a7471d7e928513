"""Drawn photos of invented insects, seen from above on a pale tray."""

import colorsys
import io
from copy import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = npt.NDArray[np.float64]

SHORT_SIDE: Final = 256
_SUPERSAMPLING: Final = 2
_JPEG_QUALITY: Final = 88


@dataclass
class Morphology:
    """What a species looks like; lengths in units of its thorax' length.

    The first fields are its body plan, settled by order and family; the colours and patterns differ
    between genera and species.
    """

    head: float
    thorax_width: float
    abdomen_length: float
    abdomen_width: float
    abdomen_taper: float
    wing_length: float
    wing_width: float
    wing_angle: float
    hind_wings: float
    leg_length: float
    leg_width: float
    antenna_length: float
    body: Colour
    thorax: Colour
    band: Colour
    band_count: int
    band_contrast: float
    wing: Colour
    wing_opacity: float
    wing_spots: int
    spot: Colour
    thorax_marks: int

    @classmethod
    def from_traits(cls, traits: npt.NDArray[np.float64]) -> "Morphology":
        """Translate traits, shape ``(24,)`` and around 0, into visible features."""
        unit = 0.5 + 0.5 * np.tanh(0.6 * traits)  # in (0, 1)

        def between(low: float, high: float, trait: int) -> float:
            return float(low + (high - low) * unit[trait])

        hue = float(0.09 + 0.11 * traits[12])  # around brown
        body = _colour(hue, between(0.2, 0.8, 13), between(0.18, 0.62, 14))
        band_hue = hue + between(-0.3, 0.3, 15)
        return cls(
            head=between(0.28, 0.62, 0),
            thorax_width=between(0.45, 1.05, 1),
            abdomen_length=between(0.9, 2.6, 2),
            abdomen_width=between(0.35, 1.05, 3),
            abdomen_taper=between(0.1, 1.0, 4),
            wing_length=between(0.7, 2.9, 5),
            wing_width=between(0.3, 1.2, 6),
            wing_angle=between(12, 95, 7),
            hind_wings=between(-0.3, 1.0, 8),
            leg_length=between(0.6, 2.2, 9),
            leg_width=between(0.05, 0.14, 10),
            antenna_length=between(0.25, 2.0, 11),
            body=body,
            thorax=_colour(hue + between(-0.1, 0.1, 16), between(0.2, 0.7, 13), between(0.1, 0.55, 17)),
            band=_colour(band_hue, 0.7, between(0.15, 0.85, 18)),
            band_count=round(between(0, 8, 19)),
            band_contrast=between(0.3, 1.0, 20),
            wing=_colour(hue + between(-0.25, 0.25, 21), 0.28, between(0.45, 0.85, 17)),
            wing_opacity=between(0.25, 0.95, 22),
            wing_spots=round(between(0, 4, 23)),
            spot=_colour(band_hue + 0.5, 0.5, between(0.1, 0.5, 15)),
            thorax_marks=round(between(0, 3, 20)),
        )


def photograph(morphology: Morphology, rng: np.random.Generator) -> bytes:
    """Draw one specimen; its pose, size, light, sharpness and tray are chance.

    Parameters
    ----------
    morphology : Morphology
        What its species looks like.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    bytes
        A JPEG with 256 pixels on the short side, about 10-25 kB.
    """
    height = SHORT_SIDE
    width = int(rng.choice([256, 300, 341, 384]))
    tray = _tray(width, height, rng)
    insect = _draw_insect(morphology, width, height, rng)
    shadow = insect.getchannel("A").filter(ImageFilter.GaussianBlur(5)).point(lambda a: a * 0.35)
    shifted = Image.new("L", (width, height))
    shifted.paste(shadow, (int(rng.integers(-6, 7)), int(rng.integers(2, 9))))
    tray.paste((60, 58, 55), mask=shifted)
    tray.paste(insect.convert("RGB"), mask=insect.getchannel("A"))
    return _expose(tray, rng)


def photograph_from_traits(job: tuple[npt.NDArray[np.float64], list[int]]) -> bytes:
    """Draw one specimen from its species' traits and a seed of its own; for worker processes."""
    traits, seed = job
    return photograph(Morphology.from_traits(traits), np.random.default_rng(seed))


def _draw_insect(
    morphology: Morphology, width: int, height: int, rng: np.random.Generator
) -> Image.Image:
    """Return the insect on a transparent ground, antialiased by drawing it larger."""
    canvas = Image.new("RGBA", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    reach = 0.8 + morphology.abdomen_length + morphology.head
    size = height * _SUPERSAMPLING * rng.uniform(0.42, 0.62) / reach
    angle = rng.uniform(0, 2 * np.pi)
    centre = np.array([width, height]) * _SUPERSAMPLING * (0.5 + rng.uniform(-0.06, 0.06, size=2))
    foreshortening = rng.uniform(0.85, 1.0)
    pen = _Pen(canvas, size, angle, centre, foreshortening)

    _draw_legs(pen, morphology, rng)
    _draw_antennae(pen, morphology, rng)
    wings_below = morphology.wing_angle > 50
    if wings_below:
        _draw_wings(pen, morphology, rng)
    _draw_body(pen, morphology)
    if not wings_below:
        _draw_wings(pen, morphology, rng)
    return canvas.resize((width, height), Image.Resampling.BOX)


class _Pen:
    """Draws in the insect's own frame: head towards -y, unit one thorax length."""

    def __init__(
        self, canvas: Image.Image, size: float, angle: float, centre: Points, foreshortening: float
    ) -> None:
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin], [sin, cos]])
        self._matrix = size * rotation @ np.diag([1.0, foreshortening])
        self._centre = centre
        self._size = size
        self._canvas = canvas
        self._draw = ImageDraw.Draw(canvas)

    def layer(self) -> "_Pen":
        """Return a pen for a transparent sheet of its own."""
        sheet = copy(self)
        sheet._canvas = Image.new("RGBA", self._canvas.size)
        sheet._draw = ImageDraw.Draw(sheet._canvas)
        return sheet

    def lay(self, sheet: "_Pen") -> None:
        """Lay a sheet over what has been drawn."""
        self._canvas.alpha_composite(sheet._canvas)

    def fill(self, points: Points, colour: Colour, opacity: float = 1.0) -> None:
        """Fill a polygon, shape ``(P, 2)``, replacing what is below it on the same sheet."""
        self._draw.polygon(self._place(points), fill=(*colour, round(255 * opacity)))

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """Draw a line through points, shape ``(P, 2)``."""
        pixels = max(1, round(width * self._size))
        self._draw.line(self._place(points), fill=(*colour, 255), width=pixels, joint="curve")

    def _place(self, points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in points @ self._matrix.T + self._centre]


def _draw_body(pen: _Pen, m: Morphology) -> None:
    start = 0.42  # where the abdomen begins
    along = np.linspace(0, 1, 40)
    half_width = 0.5 * m.abdomen_width * np.sin(np.pi * along ** (0.45 + 0.6 * m.abdomen_taper)) ** 0.7
    y = start + along * m.abdomen_length
    pen.fill(_outline(half_width, y), m.body)
    for band in range(m.band_count):
        here = slice(*np.searchsorted(along, (band + np.array([0.45, 0.95])) / m.band_count))
        if here.stop - here.start > 1:
            colour = _mix(m.body, m.band, m.band_contrast)
            pen.fill(_outline(half_width[here], y[here]), colour)
    pen.fill(_ellipse(0, 0, m.thorax_width / 2, 0.55), m.thorax)
    for mark in range(m.thorax_marks):
        x = (mark - (m.thorax_marks - 1) / 2) * m.thorax_width / 3.5
        pen.fill(_ellipse(x, 0, 0.05, 0.35), _mix(m.thorax, m.band, m.band_contrast))
    pen.fill(_ellipse(0, -0.5 - m.head / 2, m.head * 0.55, m.head * 0.5), _mix(m.thorax, m.body, 0.3))
    for side in (-1, 1):
        pen.fill(_ellipse(side * m.head * 0.45, -0.55 - m.head / 2, m.head * 0.2, m.head * 0.25), (40, 18, 18))


def _draw_wings(pen: _Pen, m: Morphology, rng: np.random.Generator) -> None:
    sheet = pen.layer()
    pairs = [(1.0, m.wing_angle, -0.1)]
    if m.hind_wings > 0.15:
        pairs.insert(0, (0.45 + 0.4 * m.hind_wings, m.wing_angle - 22, 0.15))
    for length_share, degrees, root in pairs:
        for side in (-1, 1):
            angle = np.deg2rad(degrees + rng.normal(0, 4))
            direction = np.array([side * np.sin(angle), np.cos(angle)])
            _draw_wing(sheet, m, np.array([side * 0.25, root]), direction, length_share)
    pen.lay(sheet)


def _draw_wing(pen: _Pen, m: Morphology, root: Points, direction: Points, share: float) -> None:
    length, half_width = m.wing_length * share, m.wing_width * share / 2
    across = np.array([-direction[1], direction[0]])
    blade = _ellipse(0.5, 0, 0.5, 0.5)
    blade[:, 1] *= 0.6 + 0.8 * blade[:, 0]  # broader towards the tip
    outline = root + blade[:, :1] * length * direction + 2 * blade[:, 1:] * half_width * across
    pen.fill(outline, m.wing, m.wing_opacity)
    vein = _mix(m.wing, (30, 25, 20), 0.6)
    for offset in (-0.4, 0.0, 0.4):
        tip = root + 0.93 * length * direction + offset * half_width * across
        pen.line(np.array([root, tip]), vein, 0.012)
    for spot in range(m.wing_spots):
        centre = root + (0.35 + 0.5 * spot / 4) * length * direction
        pen.fill(centre + _ellipse(0, 0, 0.35 * half_width, 0.35 * half_width), m.spot, 0.8)


def _draw_legs(pen: _Pen, m: Morphology, rng: np.random.Generator) -> None:
    for root, degrees in ((-0.3, 135), (0.0, 95), (0.3, 50)):
        for side in (-1, 1):
            angle = np.deg2rad(degrees + rng.normal(0, 10))
            bend = angle - np.deg2rad(rng.uniform(15, 45)) * np.sign(degrees - 90.5)
            hip = np.array([side * m.thorax_width * 0.3, root])
            knee = hip + 0.5 * m.leg_length * np.array([side * np.sin(angle), np.cos(angle)])
            foot = knee + 0.55 * m.leg_length * np.array([side * np.sin(bend), np.cos(bend)])
            pen.line(np.array([hip, knee]), m.thorax, m.leg_width)
            pen.line(np.array([knee, foot]), m.thorax, m.leg_width * 0.6)


def _draw_antennae(pen: _Pen, m: Morphology, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        angle = np.deg2rad(rng.uniform(155, 172))
        root = np.array([side * m.head * 0.2, -0.5 - m.head * 0.8])
        middle = root + 0.5 * m.antenna_length * np.array([side * np.sin(angle), np.cos(angle)])
        outer = angle - 0.5
        tip = middle + 0.5 * m.antenna_length * np.array([side * np.sin(outer), np.cos(outer)])
        pen.line(np.array([root, middle, tip]), m.thorax, 0.04)


def _tray(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Return a pale ground, unevenly lit."""
    colour = rng.uniform(195, 242) + rng.normal(0, 5, size=3)
    slope = rng.normal(0, 14, size=2)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    light = slope[0] * x + slope[1] * y - 25 * (x**2 + y**2)
    pixels = np.clip(colour + light[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _expose(photo: Image.Image, rng: np.random.Generator) -> bytes:
    """Blur, light, add sensor noise and encode."""
    photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0)))
    gain = rng.uniform(0.8, 1.12) * (1 + rng.normal(0, 0.025, size=3))
    noise = rng.normal(0, rng.uniform(4.0, 6.0), size=(photo.height, photo.width, 1))
    pixels = np.clip(np.asarray(photo) * gain + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([x + half_width * np.cos(angles), y + half_height * np.sin(angles)], axis=1)


def _outline(half_width: Points, y: Points) -> Points:
    """Return the outline of a shape that is symmetric about x = 0."""
    right = np.stack([half_width, y], axis=1)
    left = np.stack([-half_width, y], axis=1)
    return np.concatenate([right, left[::-1]])


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(first, second, strict=True)
    )
    return red, green, blue
