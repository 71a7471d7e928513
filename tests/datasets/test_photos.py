"""One rule says what is a photo, in training, for files and for photos as they come."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from projects.bioscan_clip.data_tools.checks.photos import problem_of
from projects.bioscan_clip.datasets import photos
from projects.bioscan_clip.datasets.transforms import decode_photo
from projects.bioscan_clip.inference.photos import read_photo


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def decode_in_training(content: bytes) -> None:
    decode_photo(np.frombuffer(content, np.uint8).copy())


def check_in_a_file(content: bytes) -> None:
    if problem := problem_of(content):
        raise ValueError(problem)


@pytest.mark.parametrize("read", [decode_in_training, check_in_a_file, read_photo])
def test_the_same_sizes_are_photos_everywhere(monkeypatch, read):
    monkeypatch.setattr(photos, "MAX_PIXELS", 1000)
    for width, height in ((25, 40), (4, 200), (200, 4)):
        read(png(width, height))
    for width, height in ((41, 25), (4, 201), (201, 4)):
        with pytest.raises(ValueError, match=f"it has {width} x {height} pixels, but a photo has"):
            read(png(width, height))


def test_a_camera_of_100_megapixels_is_no_bomb():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert photos.open_photo(png(11648, 8736)).size == (11648, 8736)
    with pytest.raises(ValueError, match="more than 178,956,970 pixels"):
        photos.open_photo(png(15000, 12000))
