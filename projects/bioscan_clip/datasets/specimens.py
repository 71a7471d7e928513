"""The dataset of specimens: photo, barcode and taxonomic name of each."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from mmlearn.constants import EXAMPLE_INDEX_KEY
from mmlearn.datasets.core import Example, Modalities
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image

from projects.bioscan_clip.datasets.hdf5 import BadRowError, HDF5Split
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    DNA_FEATURES,
    IMAGE,
    IMAGE_FEATURES,
    TEXT_IDS,
    TEXT_MASK,
)
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.datasets.transforms import evaluation_transform, training_transform

logger = logging.getLogger(__name__)

_MOST_BAD_IMAGES_IN_A_ROW = 100


class BIOSCANInsectDataset(Dataset[Example]):
    """Specimens of one split of a BIOSCAN-1M or BIOSCAN-5M HDF5 file.

    An example holds

    - ``rgb``: float32 ``(3, image_size, image_size)``, or float32 ``(512,)`` features;
    - ``dna``: int64 ``(133,)`` tokens, or float32 ``(768,)`` features;
    - ``text`` and ``text_attention_mask``: int64 ``(20,)``;
    - ``labels``: int64 ``(4,)``, codes of order, family, genus and species, -1 if unknown;
    - ``bin``: int64, code of the specimen's Barcode Index Number, -1 if unknown;
    - ``bad_image``: int64, 1 if this specimen stands in for one whose photo cannot be decoded.

    Parameters
    ----------
    path_to_hdf5_file : str or pathlib.Path, optional
        The file. None is an error that says how to name one.
    split : str
        Group of the file, such as ``no_split_and_seen_train`` or ``val_seen``.
    for_training : bool, default=True
        Whether photos are augmented.
    image_input_type : {"image", "feature"}, default="image"
        Pixels, or the file's ``image_features``.
    dna_input_type : {"sequence", "feature"}, default="sequence"
        Tokens of the barcode, or the file's ``dna_features``.
    tokenizer : KmerTokenizer, optional
        Defaults to 5-mers at stride 5 over 660 bases.
    image_size : int, default=224
        Side of a photo in pixels.
    on_bad_image : {"raise", "skip"}, optional
        What an undecodable photo does: end the run with an error that names it, or be replaced by
        the next specimen and logged. Defaults to ``"skip"`` for training, else ``"raise"``.
    path_variable : str, optional
        Environment variable that users set to the file's path; named in the error when
        `path_to_hdf5_file` is None.

    Raises
    ------
    ValueError
        If no file is given, or the file does not hold what is asked for.
    FileNotFoundError
        If there is no such file.
    """

    def __init__(
        self,
        path_to_hdf5_file: str | Path | None,
        split: str,
        for_training: bool = True,
        image_input_type: Literal["image", "feature"] = "image",
        dna_input_type: Literal["sequence", "feature"] = "sequence",
        tokenizer: KmerTokenizer | None = None,
        image_size: int = 224,
        on_bad_image: Literal["raise", "skip"] | None = None,
        path_variable: str | None = None,
    ) -> None:
        if path_to_hdf5_file is None:
            variable = f"set {path_variable} to its path or " if path_variable else ""
            raise ValueError(
                f"No HDF5 file is given for split {split}: {variable}pass `path_to_hdf5_file`. "
                "`bioscan-clip doctor` checks a whole experiment."
            )
        _check_choice("image_input_type", image_input_type, ("image", "feature"))
        _check_choice("dna_input_type", dna_input_type, ("sequence", "feature"))
        _check_choice("on_bad_image", on_bad_image, ("raise", "skip", None))
        self.split = split
        self.on_bad_image = on_bad_image or ("skip" if for_training else "raise")
        self.tokenizer = tokenizer or KmerTokenizer()
        self.transform = (training_transform if for_training else evaluation_transform)(image_size)
        self._image_column = IMAGE if image_input_type == "image" else IMAGE_FEATURES
        self._dna_column = BARCODE if dna_input_type == "sequence" else DNA_FEATURES
        columns = (self._image_column, self._dna_column, TEXT_IDS, TEXT_MASK)
        self._rows = HDF5Split(path_to_hdf5_file, split, columns)

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self._rows)

    def __getitem__(self, idx: int) -> Example:
        """Return one specimen; see the class for what it holds."""
        row, rgb = self._usable_photo(idx)
        return Example(
            {
                EXAMPLE_INDEX_KEY: row,
                Modalities.RGB.name: rgb,
                Modalities.DNA.name: self._read_dna(row),
                Modalities.TEXT.name: self._read_tokens(TEXT_IDS, row),
                Modalities.TEXT.attention_mask: self._read_tokens(TEXT_MASK, row),
                "labels": torch.from_numpy(self._rows.labels[row]),
                "bin": int(self._rows.bins[row]),
                "bad_image": int(row != idx),
            }
        )

    def _usable_photo(self, idx: int) -> tuple[int, torch.Tensor]:
        for step in range(_MOST_BAD_IMAGES_IN_A_ROW):
            row = (idx + step) % len(self)
            try:
                return row, self._read_photo(row)
            except BadRowError as error:
                if self.on_bad_image == "raise":
                    raise
                logger.warning("Skipped a photo, taking the next specimen instead. %s", error)
        raise BadRowError(
            f"{self._rows.describe(idx)}: this photo and the next {_MOST_BAD_IMAGES_IN_A_ROW - 1} "
            "cannot be decoded, so the file is damaged; build or download it again."
        )

    def _read_photo(self, row: int) -> torch.Tensor:
        if self._image_column == IMAGE_FEATURES:
            return _as_float(self._rows.read(IMAGE_FEATURES, row))
        jpeg = torch.from_numpy(self._rows.read_jpeg(row))
        try:
            pixels = decode_image(jpeg, mode=ImageReadMode.RGB)
        except RuntimeError as error:
            raise BadRowError(
                f"{self._rows.describe(row)}: the photo does not decode. Mend the file, or set "
                "on_bad_image=skip to train without it."
            ) from error
        photo: torch.Tensor = self.transform(pixels)
        return photo

    def _read_dna(self, row: int) -> torch.Tensor:
        value = self._rows.read(self._dna_column, row)
        return _as_float(value) if self._dna_column == DNA_FEATURES else self.tokenizer(value)

    def _read_tokens(self, column: str, row: int) -> torch.Tensor:
        return torch.from_numpy(self._rows.read(column, row).astype(np.int64))


def _as_float(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(features.astype(np.float32))


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}, but is {value!r}.")
