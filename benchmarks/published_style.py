"""A file like the published ones, and the pipeline that reads them in the usual way.

The pipeline is what the loader and the tokenizer are compared with: one HDF5 access per value, PIL,
float images on the CPU, one tokenizer call per barcode.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image, ImageFilter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.utils.data import Dataset
from torchvision.transforms import v2

from projects.bioscan_clip.datasets.schema import RANKS, TEXT_IDS, TEXT_MASK, TEXT_TYPE_IDS
from projects.bioscan_clip.datasets.transforms import CLIP_MEAN, CLIP_STD

SPLIT = "no_split_and_seen_train"
PHOTO_SIZE = (341, 256)
ROW_BYTES = 29_598  # as in BIOSCAN-5M
BARCODE_LENGTH, K = 660, 5


def draw_photo(rng: np.random.Generator) -> bytes:
    """Draw a JPEG of about 18 kB with the size and detail of a published one."""
    blobs = Image.fromarray(rng.integers(0, 255, (20, 27, 3), dtype=np.uint8))
    pixels = np.asarray(blobs.resize(PHOTO_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = np.clip(pixels + rng.normal(0, 5.3, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).filter(ImageFilter.GaussianBlur(0.6)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def published_style_file(specimens: int, **image_options: Any) -> Iterator[Path]:
    """Write a file for as long as it is needed.

    Parameters
    ----------
    specimens : int
        Rows of its one split.
    **image_options
        Of h5py, for the data set ``image``.
    """
    rng = np.random.default_rng(0)
    photos = [draw_photo(rng) for _ in range(256)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "published_style.hdf5"
        with h5py.File(path, "w") as file:
            group = file.create_group(SPLIT)
            _write_columns(group, specimens, rng)
            _write_photos(group, specimens, photos, image_options)
        yield path


def _write_columns(group: h5py.Group, specimens: int, rng: np.random.Generator) -> None:
    for rank in RANKS:
        names = np.array([f"{rank}-{number}".encode() for number in range(500)])
        group[rank] = names[rng.integers(len(names), size=specimens)]
    bases = np.frombuffer(b"ACGT", dtype=np.uint8)[rng.integers(4, size=(specimens, 658))]
    group["barcode"] = bases.view("S658")[:, 0]
    tokens = rng.integers(1, 30_000, (specimens, 20))
    for column in (TEXT_IDS, TEXT_TYPE_IDS, TEXT_MASK):
        group[column] = tokens


def _write_photos(
    group: h5py.Group, specimens: int, photos: list[bytes], options: dict[str, Any]
) -> None:
    group["image_mask"] = np.array([len(photos[row % len(photos)]) for row in range(specimens)])
    images = group.create_dataset("image", (specimens, ROW_BYTES), dtype=np.uint8, **options)
    block = np.zeros((len(photos), ROW_BYTES), dtype=np.uint8)
    for row, photo in enumerate(photos):
        block[row, : len(photo)] = np.frombuffer(photo, dtype=np.uint8)
    for start in range(0, specimens, len(block)):
        images[start : start + len(block)] = block[: specimens - start]


class UsualTokenizer:
    """K-mers by string slicing and a word-level vocabulary of the `tokenizers` library."""

    def __init__(self) -> None:
        words = ["[MASK]", "[CLS]", "[UNK]", *map("".join, product("ACGT", repeat=K))]
        vocabulary = {word: number for number, word in enumerate(words)}
        self._tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        self._tokenizer.pre_tokenizer = WhitespaceSplit()

    def __call__(self, barcode: str) -> torch.Tensor:
        padded = barcode[:BARCODE_LENGTH].ljust(BARCODE_LENGTH, "N")
        words = [padded[start : start + K] for start in range(0, BARCODE_LENGTH, K)]
        return torch.tensor(self._tokenizer.encode(" ".join(["[CLS]", *words])).ids)


class UsualDataset(Dataset[dict[str, Any]]):
    """Read a specimen value by value, with the published transforms in their published order."""

    def __init__(self, path: Path, for_training: bool) -> None:
        self._path = path
        self._tokenizer = UsualTokenizer()
        with h5py.File(path) as file:
            self._length = len(file[SPLIT]["image_mask"])
            names = {rank: file[SPLIT][rank].asstr()[:] for rank in RANKS}
        self._labels = [{rank: names[rank][row] for rank in RANKS} for row in range(self._length)]
        self._group: h5py.Group | None = None
        normalise = v2.Normalize(CLIP_MEAN, CLIP_STD)
        if for_training:
            cropped = [v2.RandomResizedCrop(224, antialias=True), normalise]
            turned = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomRotation(45)]
            steps = [*cropped, *turned]
        else:
            steps = [v2.CenterCrop(224), normalise]
        to_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        self._transform = v2.Compose([*to_tensor, v2.Resize(256, antialias=True), *steps])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self._group is None:
            self._group = h5py.File(self._path)[SPLIT]
        length = self._group["image_mask"][row]
        jpeg = self._group["image"][row][:length].tobytes()
        return {
            "rgb": self._transform(Image.open(io.BytesIO(jpeg)).convert("RGB")),
            "dna": self._tokenizer(self._group["barcode"][row].decode()),
            "text": torch.from_numpy(self._group[TEXT_IDS][row]),
            "text_attention_mask": torch.from_numpy(self._group[TEXT_MASK][row]),
            "labels": self._labels[row],
        }
