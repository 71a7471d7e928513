"""What chance does to a training photo: which part is cropped, how it is flipped and rotated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_CROP_TRIES: Final = 10
_LOG_RATIO: Final = math.log(4 / 3)
_AREA: Final = (0.08, 1.0)
_MOST_DEGREES: Final = 45


@dataclass(frozen=True)
class Augmentation:
    """How one photo is augmented.

    Attributes
    ----------
    top, left, height, width : int
        The part of the photo that is kept, in pixels.
    pose : numpy.ndarray
        float32, shape ``(2, 2)``: maps the place (x, y) of a pixel of the result, counted from the
        centre, to the place in the resized crop that it is taken from. A rotation after flips.
    """

    top: int
    left: int
    height: int
    width: int
    pose: npt.NDArray[np.float32]


def draw_augmentation(height: int, width: int, rng: np.random.Generator) -> Augmentation:
    """Draw the augmentation of the published recipe for one photo.

    A crop of 8 to 100 % of the area with sides of ratio 3:4 to 4:3, as torchvision's
    ``RandomResizedCrop`` draws it; a flip along each axis with a probability of one half; a
    rotation within 45 degrees.

    Parameters
    ----------
    height, width : int
        Size of the photo in pixels.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Augmentation
        The part to keep and the pose.
    """
    chances = iter(rng.random(2 * _CROP_TRIES + 5).tolist())  # at once: one by one takes longer
    return Augmentation(*_draw_crop(height, width, chances), _draw_pose(chances))


def _draw_crop(height: int, width: int, chances: Iterator[float]) -> tuple[int, int, int, int]:
    for _ in range(_CROP_TRIES):
        area = height * width * _between(*_AREA, next(chances))
        ratio = math.exp(_between(-_LOG_RATIO, _LOG_RATIO, next(chances)))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(next(chances) * (height - crop_height + 1))
            left = int(next(chances) * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    # Nothing fitted a very long photo: the middle of it, as large as a ratio allows.
    crop_height = min(height, round(width * 4 / 3))
    crop_width = min(width, round(height * 4 / 3))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _draw_pose(chances: Iterator[float]) -> npt.NDArray[np.float32]:
    flip_x, flip_y = (1 if next(chances) < 0.5 else -1 for _ in range(2))
    angle = math.radians(_between(-_MOST_DEGREES, _MOST_DEGREES, next(chances)))
    cosine, sine = math.cos(angle), math.sin(angle)
    rows = [[flip_x * cosine, flip_x * -sine], [flip_y * sine, flip_y * cosine]]
    return np.array(rows, dtype=np.float32)


def _between(low: float, high: float, chance: float) -> float:
    return low + (high - low) * chance
