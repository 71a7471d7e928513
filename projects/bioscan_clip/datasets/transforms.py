"""From a photo's bytes to what the encoder takes.

Workers crop and resize photos one by one and keep them uint8, a quarter of the bytes of float32.
What is the same work for every pixel of a batch (flips, rotation, normalisation) is left to
:func:`finish`, which runs where the batch is used: on the GPU if there is one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from projects.bioscan_clip.datasets.photos import open_photo

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)

POSE: Final = "rgb_pose"
"""The batch key of poses, from the worker to :func:`finish_batch`."""

_ON_CPU_AT_ONCE: Final = 4  # photos whose pixels stay in a core's cache

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


def decode_photo(file: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Decode a photo, unless that would take memory out of proportion.

    Parameters
    ----------
    file : numpy.ndarray
        The bytes of a JPEG or PNG file, uint8, shape ``(L,)``.

    Returns
    -------
    torch.Tensor
        uint8 RGB, shape ``(3, H, W)``; 16 bits per channel are scaled to 8.

    Raises
    ------
    ValueError
        If it does not decode, is of another format, or is no photo by its size.
    """
    try:
        open_photo(file.data, ("JPEG", "PNG"))
        photo: torch.Tensor = decode_image(torch.from_numpy(file), mode=ImageReadMode.RGB)
    except UnidentifiedImageError as error:
        raise ValueError("the photo does not decode: it is no JPEG or PNG file") from error
    except (OSError, RuntimeError, SyntaxError) as error:
        raise ValueError(f"the photo does not decode: {error}") from error
    if photo.dtype != torch.uint8:
        photo = F.to_dtype(photo, torch.uint8, scale=True)
    return photo


def evaluation_view(
    photo: torch.Tensor, image_size: int, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Resize the short side to 8/7 of `image_size` and cut out the centre.

    Parameters
    ----------
    photo : torch.Tensor
        uint8, shape ``(3, H, W)``.
    image_size : int
        Side of the result in pixels.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        How pixels are resized.

    Returns
    -------
    torch.Tensor
        uint8, shape ``(3, image_size, image_size)``.
    """
    mode = InterpolationMode(interpolation)
    resized = F.resize(photo, [round(image_size * 256 / 224)], mode, antialias=True)
    view: torch.Tensor = F.center_crop(resized, [image_size, image_size])
    return view


def flips_and_turns(photos: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield square photos ``(B, C, S, S)`` in the 8 ways that they can lie, as they are first."""
    for turns in range(4):
        turned = photos.rot90(turns, dims=(2, 3))
        yield from (turned, turned.flip(3))


def training_view(
    photo: torch.Tensor, image_size: int, drawn: Augmentation, interpolation: str = "bilinear"
) -> torch.Tensor:
    """Cut out the part that an augmentation keeps, and resize it.

    Parameters
    ----------
    photo, image_size, interpolation
        As for :func:`evaluation_view`.
    drawn : Augmentation
        The part to keep; its pose is left to :func:`finish`.

    Returns
    -------
    torch.Tensor
        uint8, shape ``(3, image_size, image_size)``.
    """
    part = photo[:, drawn.top : drawn.top + drawn.height, drawn.left : drawn.left + drawn.width]
    mode = InterpolationMode(interpolation)
    view: torch.Tensor = F.resize(part, [image_size, image_size], mode, antialias=True)
    return view


def finish_batch(batch: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Make the photos of a batch what the encoder takes; leave a batch that is finished as it is.

    Parameters
    ----------
    batch : dict
        ``rgb`` uint8 ``(B, 3, S, S)`` and perhaps ``rgb_pose`` float32 ``(B, 2, 2)``, or ``rgb`` of
        another dtype.
    **options
        Of :func:`finish`.

    Returns
    -------
    dict
        The batch, with ``rgb`` float32 ``(B, 3, S, S)`` and without ``rgb_pose``.
    """
    photos = batch.get("rgb")
    if photos is None or photos.dtype != torch.uint8:
        return batch
    finished = {key: value for key, value in batch.items() if key != POSE}
    return finished | {"rgb": finish(photos, batch.get(POSE), **options)}


def finish(
    photos: torch.Tensor,
    poses: torch.Tensor | None = None,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
    compiled: Callable[..., None] | None = None,
) -> torch.Tensor:
    """Flip, rotate and normalise a batch of photos, on the device that they are on.

    Parameters
    ----------
    photos : torch.Tensor
        uint8, shape ``(B, 3, S, S)``.
    poses : torch.Tensor, optional
        float32, shape ``(B, 2, 2)``; see :class:`Augmentation`. None leaves photos upright.
    mean, std : sequence of float
        Of red, green and blue, 0 to 1, by which photos are normalised. Default to CLIP's.
    compiled : callable, optional
        :func:`finish_into`, compiled.

    Returns
    -------
    torch.Tensor
        float32, shape ``(B, 3, S, S)``, the colours of a pixel side by side in memory, which
        convolutions are quicker with. Pixels from outside a photo are 0, the mean colour.
    """
    middle, spread = (_per_colour(tuple(values), photos.device) for values in (mean, std))
    finished = torch.empty(photos.shape, device=photos.device, memory_format=torch.channels_last)
    on_cpu = photos.device.type == "cpu" and compiled is None
    at_once = _ON_CPU_AT_ONCE if on_cpu else max(len(photos), 1)
    for start in range(0, len(photos), at_once):
        part = slice(start, start + at_once)
        pose = None if poses is None else poses[part]
        (compiled or finish_into)(finished[part], photos[part], pose, middle, spread)
    return finished


def finish_into(
    finished: torch.Tensor,
    photos: torch.Tensor,
    poses: torch.Tensor | None,
    middle: torch.Tensor,
    spread: torch.Tensor,
) -> None:
    """Write what :func:`finish` returns to `finished`; colours are ``(3, 1, 1)``, 0 to 255."""
    if poses is None:
        torch.sub(photos, middle, out=finished).div_(spread)
    else:
        posed, inside = _pose(photos, poses)
        torch.sub(posed, middle, out=finished).div_(spread).mul_(inside[:, None])


@cache
def _per_colour(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Put shares of brightness where photos are, as ``(3, 1, 1)`` from 0 to 255, only once."""
    return 255 * torch.tensor(values, device=device)[:, None, None]


def _pose(photos: torch.Tensor, poses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take each pixel from the nearest one to the place that the pose names.

    Returns the posed photos, uint8 ``(B, 3, S, S)``, and where that place is inside the photo, bool
    ``(B, S, S)``.
    """
    size = photos.shape[-1]
    middle = (size - 1) / 2
    offsets = torch.arange(size, device=photos.device) - middle
    along_x, along_y = poses[:, :, :1] * offsets, poses[:, :, 1:] * offsets  # (B, 2, S)
    places = (along_x[:, :, None, :] + along_y[:, :, :, None] + middle).round_()  # (B, 2, S, S)
    inside = ((places >= 0) & (places < size)).all(dim=1)
    x, y = places.clamp_(0, size - 1).unbind(dim=1)
    sources = (y * size + x).long().flatten(1)[:, None].expand(-1, 3, -1)
    return photos.flatten(2).gather(2, sources).view(photos.shape), inside
