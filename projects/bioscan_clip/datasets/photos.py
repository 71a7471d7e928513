"""Which pictures are photos: one rule for data files, training and photos as they come."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Final

from PIL import Image

MAX_PIXELS: Final = 178_956_970
"""Half a gigabyte once decoded: cameras stay below it, and PIL too opens no more."""

MAX_ASPECT: Final = 50
"""How many times as long as wide; resizing the short side makes such a photo huge."""


def open_photo(content: bytes | memoryview, formats: Sequence[str] | None = None) -> Image.Image:
    """Open a photo without decoding it, unless that would take memory out of proportion.

    Parameters
    ----------
    content : bytes or memoryview
        The bytes of a file.
    formats : sequence of str, optional
        PIL's names of the formats to read; all that it knows if None.

    Returns
    -------
    PIL.Image.Image
        The photo; what it shows is read when asked for.

    Raises
    ------
    PIL.UnidentifiedImageError
        If it is of none of the formats.
    ValueError
        If it is too large, or too long for its width.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of its limit
        try:
            photo = Image.open(BytesIO(content), formats=formats)
        except Image.DecompressionBombError as error:
            raise ValueError(f"it has more than {MAX_PIXELS:,} pixels") from error
    check_size(*photo.size)
    return photo


def check_size(width: int, height: int) -> None:
    """Refuse sizes in pixels that no photo of a specimen has.

    Raises
    ------
    ValueError
        If there are none or more than 179 million, or it is more than 50 times as long as wide.
    """
    if not 0 < width * height <= MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"it has {width} x {height} pixels, but a photo has 1 to {MAX_PIXELS:,} and is at most "
            f"{MAX_ASPECT} times as long as wide"
        )
