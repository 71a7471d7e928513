"""Photos as they come, made what the photo encoder was trained on.

JPEG files are decoded as evaluations decode those of an HDF5 file, so that the same bytes give the
same pixels. All else goes through PIL.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, write_jpeg

from projects.bioscan_clip.datasets.photos import check_size, open_photo
from projects.bioscan_clip.datasets.transforms import evaluation_view

Photo: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any]

# PIL knows many more, some of which run other programs on what they are given.
_FORMATS: Final = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
_WHITE: Final = (255, 255, 255, 255)
_BATCHES_AHEAD: Final = 2


@dataclass
class PhotoBatch:
    """Some photos, ready to be normalised.

    Attributes
    ----------
    rows : list of int
        Which photos they are, in order.
    photos : torch.Tensor
        uint8, shape ``(len(rows), 3, S, S)``.
    errors, notes : dict of int to str
        By row: why a photo cannot be read, and what was done to one.
    """

    rows: list[int]
    photos: Tensor
    errors: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


def read_photo(photo: Photo) -> Tensor:
    """Read a photo, upright and in colour.

    - The orientation that a camera noted (EXIF) is applied.
    - Grey photos become coloured ones of the same grey, CMYK is converted by its plain formula.
    - Of 16 bits per channel, the upper eight are kept.
    - Transparent parts become white, as the background of specimens mostly is.
    - Of an animation, or a file of several pages, the first picture is taken.

    Parameters
    ----------
    photo : str, pathlib.Path, bytes, PIL.Image.Image or numpy.ndarray
        A file, its bytes, a PIL image, or uint8 of shape ``(H, W)``, ``(H, W, 1)`` or
        ``(H, W, 3)``.

    Returns
    -------
    torch.Tensor
        uint8, shape ``(3, H, W)``.

    Raises
    ------
    ValueError
        If it cannot be read, or is no photo by its size; the message names the file.
    """
    name = f"{photo}: " if isinstance(photo, str | Path) else ""
    try:
        if isinstance(photo, np.ndarray):
            pixels = _from_array(photo)
        elif isinstance(photo, Image.Image):
            pixels = _from_pil(photo)
        else:
            content = photo if isinstance(photo, bytes) else Path(photo).expanduser().read_bytes()
            pixels = _from_bytes(content)
    except FileNotFoundError:
        raise ValueError(f"{name}there is no such file.") from None
    except (OSError, RuntimeError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}{_reason(error)}.") from error
    return pixels


def read_ahead(
    photos: Sequence[Photo],
    image_size: int,
    batch_size: int,
    margin: float | None = None,
    save_crops: Sequence[Path] | None = None,
    interpolation: str = "bilinear",
) -> Iterator[PhotoBatch]:
    """Read photos in threads, some batches ahead of whoever takes them.

    Parameters
    ----------
    photos : sequence
        See :func:`read_photo`.
    image_size : int
        Side of the square that is cut out of the middle, in pixels, as evaluations do.
    batch_size : int
        Photos per batch, those that cannot be read included.
    margin : float, optional
        With which to cut to the specimen first; see
        :func:`~projects.bioscan_clip.datasets.cropping.crop_specimen`. None leaves photos whole.
    save_crops : sequence of pathlib.Path, optional
        Files that crops are written to, one for each photo.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        How pixels are resized.

    Yields
    ------
    PhotoBatch
        The next photos.
    """
    starts = range(0, len(photos), batch_size)
    crops: Sequence[Path | None] = save_crops or [None] * len(photos)
    with ThreadPoolExecutor(_cores()) as threads:

        def submit(start: int) -> "list[Future[tuple[Tensor, str]]]":
            some = enumerate(photos[start : start + batch_size], start)
            return [
                threads.submit(_view, photo, image_size, margin, crops[row], interpolation)
                for row, photo in some
            ]

        waiting: deque[tuple[int, list[Future[tuple[Tensor, str]]]]] = deque()
        try:
            for start in starts:
                waiting.append((start, submit(start)))
                if len(waiting) > _BATCHES_AHEAD:
                    yield _batch(*waiting.popleft(), image_size)
            while waiting:
                yield _batch(*waiting.popleft(), image_size)
        finally:
            threads.shutdown(cancel_futures=True)


def _view(
    photo: Photo,
    image_size: int,
    margin: float | None,
    save_crop: Path | None,
    interpolation: str,
) -> tuple[Tensor, str]:
    """Return a photo as the encoder takes it, and what was done to it."""
    pixels, note = read_photo(photo), ""
    if margin is not None:
        from projects.bioscan_clip.datasets.cropping import crop_specimen

        pixels, box = crop_specimen(pixels, margin)
        note = f"cropped to {box}" if box else "no specimen found on a plain background"
        if box and save_crop:
            save_crop.parent.mkdir(parents=True, exist_ok=True)
            write_jpeg(pixels.contiguous(), str(save_crop), quality=95)
    return evaluation_view(pixels, image_size, interpolation), note


def _batch(start: int, views: "list[Future[tuple[Tensor, str]]]", image_size: int) -> PhotoBatch:
    batch = PhotoBatch([], torch.empty((len(views), 3, image_size, image_size), dtype=torch.uint8))
    for row, future in enumerate(views, start):
        try:
            view, note = future.result()
        except ValueError as error:
            batch.errors[row] = str(error)
            continue
        batch.photos[len(batch.rows)] = view
        batch.rows.append(row)
        if note:
            batch.notes[row] = note
    batch.photos = batch.photos[: len(batch.rows)]
    return batch


def _from_bytes(content: bytes) -> Tensor:
    if not content:
        raise ValueError("the file is empty")
    image = open_photo(content, _FORMATS)
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        return pixels
    return _from_pil(image)


def _from_pil(image: Image.Image) -> Tensor:
    check_size(*image.size)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _from_array((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits per channel")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return _from_array(np.asarray(image.convert("RGB")))


def _from_array(pixels: npt.NDArray[Any]) -> Tensor:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(
            f"an array of {pixels.dtype} and shape {pixels.shape} is no photo; expected uint8 of "
            "shape (H, W) or (H, W, 3)"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] not in (1, 3):
        raise ValueError(f"an array of {pixels.shape[2]} channels is no photo; expected 1 or 3")
    check_size(pixels.shape[1], pixels.shape[0])
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor.expand(3, -1, -1)


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no photo in a format that can be read (JPEG, PNG, TIFF, WebP, BMP or GIF)"
    return f"the photo is damaged ({str(error)[:100]})"


def _cores() -> int:
    return min(32, len(os.sched_getaffinity(0)))
