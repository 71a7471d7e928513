"""Photos of synthetic specimens: light, focus, background and pose vary from one to the next."""

import cmath
import math
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from projects.bioscan_clip.sample.anatomy import draw_insect
from projects.bioscan_clip.sample.canvas import Canvas, Pose
from projects.bioscan_clip.sample.traits import TraitArray, express_traits

SHORT_SIDE: Final = 256
"""Pixels on the shorter side of every photo, as in the published files."""

_LONG_SIDES = (256, 300, 341, 341, 341, 384)
_JPEG_QUALITY = 88

Pixels = npt.NDArray[np.float32]


def draw_photo(species: TraitArray, seed: tuple[int, ...]) -> bytes:
    """Draw the photo of one specimen.

    Parameters
    ----------
    species : numpy.ndarray
        Traits of its species, float64, shape ``(n_traits,)``; see ``evolve_traits``.
    seed : tuple of int
        Decides all that is the specimen's own.

    Returns
    -------
    bytes
        JPEG file, RGB, 256 pixels on the short side.
    """
    rng = np.random.default_rng(seed)
    traits = express_traits(species, rng)
    size = (int(rng.choice(_LONG_SIDES)), SHORT_SIDE)
    if rng.random() < 0.2:
        size = size[::-1]
    canvas = Canvas(_background(size, rng), _pose(size, traits, rng))
    draw_insect(canvas, traits, rng)
    colour, height, cover = canvas.finish()

    light = cmath.exp(2j * np.pi * rng.random())
    colour = _cast_shadow(colour, cover, light, rng)
    colour = _shade(colour, height, light, traits["gloss"])
    return _expose(colour, rng)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return pale paper or liquid: an uneven tone, and some dust."""
    tone = rng.uniform(190, 238) + np.array([rng.normal(0, 3), 0, rng.normal(0, 5)])
    uneven = rng.normal(0, rng.uniform(1, 5), (5, 6, 1)) + rng.normal(0, 1, (5, 6, 3))
    coarse = np.clip(tone + uneven, 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.poisson(4)):
        x, y = rng.random(2) * size
        width, height = rng.uniform(0.5, 3, 2)
        pen.ellipse((x, y, x + width, y + height), tuple(int(part * 0.75) for part in tone))
    return image


def _pose(size: tuple[int, int], traits: dict[str, float], rng: np.random.Generator) -> Pose:
    # How far the insect reaches to its sides and behind decides how large it can be shown.
    spread = math.sin(math.radians(traits["fore_wing_angle"])) * (1 - traits["wing_case"])
    reach = max(0.56, 0.95 * traits["fore_wing_length"] * spread, 0.5 + 0.4 * traits["tail"])
    length = 0.5 * SHORT_SIDE / reach * rng.uniform(0.75, 1.05)
    offset = rng.normal(0, 8, 2)
    centre = complex(size[0] / 2 + offset[0], size[1] / 2 + offset[1])
    mirror = 1 if rng.random() < 0.5 else -1
    return Pose(
        centre=centre,
        turn=length * cmath.exp(2j * np.pi * rng.random()),
        squash=mirror * rng.uniform(0.78, 1.05),
        bend=rng.normal(0, 0.25),
    )


def _cast_shadow(
    colour: Pixels, cover: Image.Image, light: complex, rng: np.random.Generator
) -> Pixels:
    """Darken what lies beside the insect, away from the light."""
    distance = rng.uniform(3, 9)
    soft = cover.filter(ImageFilter.BoxBlur(rng.uniform(3, 6)))
    shift = (round(-distance * light.imag), round(-distance * light.real))
    shadow = np.roll(np.asarray(soft, dtype=np.float32), shift, (0, 1))
    bare = 255 - np.asarray(cover, dtype=np.float32)
    darkness = shadow * bare * np.float32(rng.uniform(0.15, 0.5) / 255**2)
    return colour * (1 - darkness)[..., None]


def _shade(colour: Pixels, height: Image.Image, light: complex, gloss: float) -> Pixels:
    """Light the domes of the body from one side, with a highlight on glossy ones."""
    box = height.getbbox() or (0, 0, 2, 2)
    body = colour[box[1] : box[3], box[0] : box[2]]
    height = height.crop(box)
    relief = np.asarray(height.filter(ImageFilter.BoxBlur(2.5)), dtype=np.float32)
    down, right = np.gradient(relief * np.float32(0.05))
    diffuse = 1 - 0.6 * np.tanh(right * light.real + down * light.imag)
    distance = (right + 0.4 * light.real) ** 2 + (down + 0.4 * light.imag) ** 2
    highlight = np.float32(130 * gloss) * np.exp(-distance / np.float32(0.05))
    lit = body * diffuse[..., None] + highlight[..., None]
    body[:] = np.where(np.asarray(height)[..., None] > 0, lit, body)
    return colour


def _expose(colour: Pixels, rng: np.random.Generator) -> bytes:
    """Return what the camera makes of it: brightness, contrast, focus, grain, compression."""
    gain = rng.uniform(0.82, 1.1) * np.array([rng.normal(1, 0.03), 1, rng.normal(1, 0.05)])
    colour = (colour - 128) * rng.uniform(0.88, 1.08) + 128
    colour = colour * gain.astype(np.float32)
    image = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 1.1)))
    grain = rng.standard_normal((image.height, image.width, 1), dtype=np.float32)
    noisy = np.asarray(image) + grain * np.float32(rng.uniform(2.0, 4.0))
    file = BytesIO()
    finished = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    finished.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
