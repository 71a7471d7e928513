import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from projects.bioscan_clip.datasets.transforms import decode_photo, evaluation_view
from projects.bioscan_clip.inference.photos import read_ahead, read_photo

RNG = np.random.default_rng(0)
COLOURS = np.kron(RNG.integers(0, 255, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)  # 48 x 64


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def as_array(photo) -> np.ndarray:
    pixels = read_photo(photo)
    assert pixels.dtype == torch.uint8
    return pixels.permute(1, 2, 0).numpy()


def test_jpeg_is_decoded_as_in_evaluations(tmp_path):
    jpeg = encoded(Image.fromarray(COLOURS), "JPEG", quality=88)
    (tmp_path / "moth.jpg").write_bytes(jpeg)
    expected = decode_photo(np.frombuffer(jpeg, dtype=np.uint8))
    for given in (jpeg, tmp_path / "moth.jpg", str(tmp_path / "moth.jpg")):
        assert torch.equal(read_photo(given), expected)


@pytest.mark.parametrize("kind", ["png", "pil", "array"])
def test_the_same_pixels_in_other_forms(kind):
    image = Image.fromarray(COLOURS)
    given = {"png": encoded(image, "PNG"), "pil": image, "array": COLOURS}[kind]
    np.testing.assert_array_equal(as_array(given), COLOURS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_orientation_is_honoured(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    upright = COLOURS.astype(int)
    # How a camera stores an upright picture, by the EXIF standard's row and column of its corner.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    photo = encoded(Image.fromarray(stored.astype(np.uint8)), format, exif=exif, **options)
    np.testing.assert_allclose(as_array(photo), upright, atol=16)


def test_grey():
    grey = COLOURS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(as_array(grey), expected)
    np.testing.assert_array_equal(as_array(grey[..., None]), expected)
    np.testing.assert_array_equal(as_array(encoded(Image.fromarray(grey), "PNG")), expected)
    jpeg = as_array(encoded(Image.fromarray(grey), "JPEG", quality=100))
    np.testing.assert_allclose(jpeg, expected.astype(int), atol=2)


def test_16_bits_keep_the_upper_eight():
    wide = COLOURS[..., 0].astype(np.uint16) * 256 + 200
    photo = encoded(Image.fromarray(wide), "PNG")
    np.testing.assert_array_equal(as_array(photo)[..., 0], COLOURS[..., 0])
    np.testing.assert_array_equal(
        as_array(encoded(Image.fromarray(wide), "TIFF"))[..., 1], wide >> 8
    )


def test_cmyk():
    photo = encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG", quality=100)
    np.testing.assert_allclose(as_array(photo), COLOURS.astype(int), atol=24)


def test_transparent_parts_become_white():
    pixels = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)])
    pixels[:10, :, 3] = 0
    shown = as_array(encoded(Image.fromarray(pixels), "PNG"))
    assert (shown[:10] == 255).all()
    np.testing.assert_array_equal(shown[10:], COLOURS[10:])


def test_of_an_animation_the_first_picture():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    photo = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (as_array(photo) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>", "no photo in a format"),
        (encoded(Image.fromarray(COLOURS), "JPEG")[:300], "the photo is damaged"),
        (encoded(Image.fromarray(COLOURS), "PNG")[:200], "the photo is damaged"),
        (np.zeros((4, 4, 3), np.float32), r"array of float32 and shape \(4, 4, 3\)"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels, but a photo has 1 to"),
        (np.zeros((2, 400, 3), np.uint8), "at most 50 times as long as wide"),
        (Image.new("F", (8, 8)), "floating-point"),
    ],
)
def test_what_is_no_photo_is_refused(photo, reason):
    with pytest.raises(ValueError, match=reason):
        read_photo(photo)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    png = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    for width, height in ((20_000, 20_000), (12_000, 15_000)):
        png[16:24] = struct.pack(">II", width, height)
        png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
        with pytest.raises(ValueError, match="pixels"):
            read_photo(bytes(png))


def test_read_ahead_keeps_the_order():
    photos = [Image.fromarray(np.full((40, 50, 3), value, np.uint8)) for value in range(23)]
    photos[7] = b"no photo"
    batches = list(read_ahead(photos, 24, batch_size=5))
    assert [row for batch in batches for row in batch.rows] == [*range(7), *range(8, 23)]
    assert {row for batch in batches for row in batch.errors} == {7}
    for batch in batches:
        for row, view in zip(batch.rows, batch.photos, strict=True):
            assert torch.equal(view, evaluation_view(read_photo(photos[row]), 24))


def test_photos_are_not_read_far_ahead():
    class Counting(list):
        taken = 0

        def __getitem__(self, part):
            Counting.taken = max(Counting.taken, part.stop)
            return super().__getitem__(part)

    photos = Counting([np.zeros((32, 32, 3), np.uint8)] * 40)
    next(read_ahead(photos, 16, batch_size=4))
    assert Counting.taken <= 12


def test_crops_are_made_noted_and_saved(tmp_path):
    photo = np.full((300, 400, 3), 220, np.uint8)
    photo[100:180, 200:280] = 40
    plain = np.full((300, 400, 3), 220, np.uint8)
    (batch,) = read_ahead(
        [photo, plain],
        24,
        8,
        margin=1.5,
        save_crops=[tmp_path / "000000.jpg", tmp_path / "000001.jpg"],
    )
    expected = evaluation_view(read_photo(photo[80:200, 180:300]), 24)
    assert torch.equal(batch.photos[0], expected)
    assert batch.notes == {
        0: "cropped to x 180 to 300, y 80 to 200",
        1: "no specimen found on a plain background",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["000000.jpg"]
    assert as_array(tmp_path / "000000.jpg").shape == (120, 120, 3)
