"""Photo transforms of the published recipe, on uint8 tensors as long as possible."""

from typing import Final

import torch
from torchvision.transforms import InterpolationMode, v2

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)

_MEAN_COLOUR: Final = [round(255 * mean) for mean in CLIP_MEAN]


def evaluation_transform(image_size: int = 224) -> v2.Transform:
    """Resize the short side to 8/7 of `image_size`, crop the centre, normalise.

    Parameters
    ----------
    image_size : int, default=224
        Side of the result in pixels.

    Returns
    -------
    torchvision.transforms.v2.Transform
        Maps uint8 ``(3, H, W)`` to float32 ``(3, image_size, image_size)``.
    """
    return v2.Compose(
        [
            v2.Resize(_resized(image_size), antialias=True),
            v2.CenterCrop(image_size),
            *_to_normalised_float(),
        ]
    )


def training_transform(image_size: int = 224) -> v2.Transform:
    """Resize, crop at random, flip both ways, rotate within 45 degrees, normalise.

    The published recipe rotates after normalising and fills with zero, which is the mean colour;
    here the rotation comes first and fills with that colour.

    Parameters
    ----------
    image_size : int, default=224
        Side of the result in pixels.

    Returns
    -------
    torchvision.transforms.v2.Transform
        Maps uint8 ``(3, H, W)`` to float32 ``(3, image_size, image_size)``.
    """
    return v2.Compose(
        [
            v2.Resize(_resized(image_size), antialias=True),
            v2.RandomResizedCrop(image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(45, interpolation=InterpolationMode.NEAREST, fill=_MEAN_COLOUR),
            *_to_normalised_float(),
        ]
    )


def _resized(image_size: int) -> int:
    return round(image_size * 256 / 224)


def _to_normalised_float() -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD)]
