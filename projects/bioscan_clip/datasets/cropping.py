"""Cutting a photo of a tray to its specimen, as the photos are that BIOSCAN models were trained on.

This needs a plain background, such as paper, a tray or liquid, and no network weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from skimage.measure import label, regionprops
from skimage.morphology import closing, disk
from torch import Tensor
from torchvision.transforms.v2 import functional as F

FloatArray = npt.NDArray[np.float32]

USUAL_MARGIN: Final = 1.1
"""Side of a crop, relative to the longer side of the specimen's box, where none is measured."""

_SEARCHED: Final = 720  # pixels on the longer side of the picture in which specimens are searched
_SMALLEST: Final = 0.0004  # share of the picture; less is dust
_CONTRAST: Final = 20.0  # grey levels by which a specimen differs from the background, at least
_NOISE: Final = 6.0  # and as a multiple of the background's own variation
_GAP: Final = 3  # pixels between parts of one specimen, such as a body and its thin legs
_SLENDER: Final = 6.0  # times as long as wide, and straight: a ruler, an edge, a hair
_FITS: Final = 3  # of the background


@dataclass(frozen=True)
class Box:
    """A rectangle of a photo, in pixels; `bottom` and `right` are the first ones outside."""

    top: int
    left: int
    bottom: int
    right: int

    def __str__(self) -> str:
        """Say where it is."""
        return f"x {self.left} to {self.right}, y {self.top} to {self.bottom}"


def find_specimen(photo: Tensor) -> Box | None:
    """Find the specimen on a plain background.

    Pixels that differ from the background, a smooth surface of colour fitted to most of the
    picture, are joined to things; dust, and long straight things such as rulers, are left out. Of
    several specimens the most conspicuous is taken.

    Parameters
    ----------
    photo : torch.Tensor
        uint8, shape ``(3, H, W)``.

    Returns
    -------
    Box or None
        What it takes up, without a margin; None if nothing stands out.
    """
    height, width = photo.shape[1:]
    scale = min(1.0, _SEARCHED / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    small = F.resize(photo, size, antialias=True).permute(1, 2, 0).numpy().astype(np.float32)
    contrast = _contrast(small)
    things = label(closing(contrast > _CONTRAST, disk(_GAP)), connectivity=2)
    found = [
        thing
        for thing in regionprops(things, intensity_image=contrast)
        if thing.area >= _SMALLEST * contrast.size and not _is_ruler(thing)
    ]
    if not found:
        return None
    best = max(found, key=lambda thing: thing.area * thing.intensity_mean)
    top, left, bottom, right = (edge / scale for edge in best.bbox)
    return Box(round(top), round(left), min(height, round(bottom)), min(width, round(right)))


def measure_margin(crops: Iterable[Tensor]) -> float:
    """Measure which margin photos have around their specimens.

    Parameters
    ----------
    crops : iterable of torch.Tensor
        Photos, uint8, shape ``(3, H, W)`` each.

    Returns
    -------
    float
        The median of the shorter side, relative to the longer side of the specimen's box;
        :data:`USUAL_MARGIN` if none is found.
    """
    margins = []
    for crop in crops:
        box = find_specimen(crop)
        if box is not None:
            longer = max(box.bottom - box.top, box.right - box.left)
            margins.append(min(crop.shape[1:]) / longer)
    return float(np.median(margins)) if margins else USUAL_MARGIN


def crop_specimen(photo: Tensor, margin: float = USUAL_MARGIN) -> tuple[Tensor, Box | None]:
    """Cut a photo to a square around its specimen, with a margin.

    Parameters
    ----------
    photo : torch.Tensor
        uint8, shape ``(3, H, W)``.
    margin : float
        Side of the square, relative to the longer side of the specimen's box; see
        :func:`measure_margin`.

    Returns
    -------
    crop : torch.Tensor
        uint8, shape ``(3, S, S)``, or smaller where the photo ends; the photo itself if no specimen
        was found.
    box : Box or None
        Which part of the photo that is.
    """
    found = find_specimen(photo)
    if found is None:
        return photo, None
    height, width = photo.shape[1:]
    side = round(margin * max(found.bottom - found.top, found.right - found.left))
    top, bottom = _around(found.top, found.bottom, side, height)
    left, right = _around(found.left, found.right, side, width)
    return photo[:, top:bottom, left:right], Box(top, left, bottom, right)


def _around(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """Return an interval of length `side` around another, moved to within 0 and `limit`."""
    first = min(max((start + stop - side) // 2, 0), max(limit - side, 0))
    return first, min(first + side, limit)


def _contrast(picture: FloatArray) -> FloatArray:
    """Return how much each pixel differs from the background, float32 ``(H, W)``.

    In grey levels, the background's own variation taken off.
    """
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    pixels = picture.reshape(-1, 3)
    kept = np.abs(pixels - np.median(pixels, axis=0)).max(axis=1) < 2 * _CONTRAST
    for _ in range(_FITS):
        if kept.sum() < len(kept) / 10:
            break
        coefficients = np.linalg.lstsq(terms[kept][::7], pixels[kept][::7], rcond=None)[0]
        difference = np.abs(pixels - terms @ coefficients).max(axis=1)
        noise = 1.48 * float(np.median(difference[kept]))
        kept = difference < max(3 * noise, 4.0)
    else:
        over = difference - max(_NOISE * noise - _CONTRAST, 0.0)
        reshaped: FloatArray = over.reshape(height, width).astype(np.float32)
        return reshaped
    return np.zeros((height, width), dtype=np.float32)  # no background to speak of


def _is_ruler(thing: Any) -> bool:
    return bool(
        thing.solidity > 0.8
        and thing.axis_major_length > _SLENDER * max(thing.axis_minor_length, 1.0)
    )
