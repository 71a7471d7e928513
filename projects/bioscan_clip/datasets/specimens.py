"""The dataset of specimens: photo, barcode and taxonomic name of each."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from mmlearn.constants import EXAMPLE_INDEX_KEY
from mmlearn.datasets.core import Example
from torch.utils.data import Dataset, get_worker_info

from projects.bioscan_clip.arguments import check_at_least, check_choice
from projects.bioscan_clip.datasets.barcodes import (
    AUGMENTATIONS,
    CORRUPTIONS,
    augment_barcode,
    damage_barcode,
)
from projects.bioscan_clip.datasets.hdf5 import BadRowError, HDF5Split, IntArray
from projects.bioscan_clip.datasets.schema import (
    BARCODE,
    DNA_FEATURES,
    IMAGE,
    IMAGE_FEATURES,
    TEXT_IDS,
    TEXT_MASK,
)
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.datasets.transforms import (
    POSE,
    decode_photo,
    draw_augmentation,
    evaluation_view,
    finish_batch,
    training_view,
)

logger = logging.getLogger(__name__)

_MOST_BAD_IMAGES_IN_A_ROW = 100
_LEAST_IMAGE_SIZE = 16
_OF_BARCODES = 1  # tells their random numbers from those of photos

ByteArray = npt.NDArray[np.uint8]


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
    barcode_augmentation : {"placed", "shifted"} or bool, default=False
        How every other barcode is damaged in training: by false bases, runs of N and missing ends;
        or by cuts, primers and false bases, so that it is read in another frame (also true). See
        :data:`~projects.bioscan_clip.datasets.barcodes.AUGMENTATIONS`. The published recipe shows
        all as they are.
    interpolation : {"bilinear", "bicubic"}, default="bilinear"
        How photos are resized.
    path_variable : str, optional
        Environment variable that users set to the file's path; named in the error when
        `path_to_hdf5_file` is None.

    Raises
    ------
    ValueError
        If no file is given, the file does not hold what is asked for, or barcodes would be
        augmented where there are none or in an evaluation.
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
        barcode_augmentation: Literal["placed", "shifted"] | bool = False,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        path_variable: str | None = None,
    ) -> None:
        if path_to_hdf5_file is None or not Path(path_to_hdf5_file).name:  # an empty variable
            variable = f"set {path_variable} to its path or " if path_variable else ""
            raise ValueError(
                f"No HDF5 file is given for split {split}: {variable}pass `path_to_hdf5_file`. "
                "`bioscan-clip doctor` checks a whole experiment."
            )
        check_at_least("image_size", image_size, _LEAST_IMAGE_SIZE)
        check_choice("image_input_type", image_input_type, ("image", "feature"))
        check_choice("dna_input_type", dna_input_type, ("sequence", "feature"))
        check_choice("on_bad_image", on_bad_image, ("raise", "skip", None))
        kind = "shifted" if barcode_augmentation is True else barcode_augmentation or None
        check_choice("barcode_augmentation", kind, (*AUGMENTATIONS, None))
        if barcode_augmentation and not (for_training and dna_input_type == "sequence"):
            raise ValueError(
                "`barcode_augmentation` is for training on barcodes: set it for the training split "
                'only, with dna_input_type="sequence".'
            )
        self.split = split
        self.on_bad_image = on_bad_image or ("skip" if for_training else "raise")
        self.tokenizer = tokenizer or KmerTokenizer()
        self.for_training = for_training
        self._most_damage = AUGMENTATIONS[kind] if kind else None
        self.image_size = image_size
        check_choice("interpolation", interpolation, ("bilinear", "bicubic"))
        self.interpolation = interpolation
        self._image_column = IMAGE if image_input_type == "image" else IMAGE_FEATURES
        self._dna_column = BARCODE if dna_input_type == "sequence" else DNA_FEATURES
        columns = (self._image_column, self._dna_column, TEXT_IDS, TEXT_MASK)
        self._split = HDF5Split(path_to_hdf5_file, split, columns)
        if for_training:
            _warn_of_expensive_photos(self._split)

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(self._split)

    @property
    def path(self) -> Path:
        """The HDF5 file."""
        return self._split.path

    @property
    def has_photos(self) -> bool:
        """Whether specimens come with photos, not with features of photos."""
        return self._image_column == IMAGE

    @property
    def has_barcodes(self) -> bool:
        """Whether specimens come with barcodes, not with features of barcodes."""
        return self._dna_column == BARCODE

    def read_jpeg(self, row: int) -> bytes:
        """Read the JPEG bytes of one specimen's photo."""
        return self._split.read_jpegs(np.array([row]))[0].tobytes()

    def read_barcodes(self, rows: IntArray, corruption: str | None = None) -> torch.Tensor:
        """Read tokens of barcodes, damaged or not; a specimen's damage is always the same.

        Parameters
        ----------
        rows : numpy.ndarray
            int64, shape ``(N,)``.
        corruption : str, optional
            One of :data:`~projects.bioscan_clip.datasets.barcodes.CORRUPTIONS`.

        Returns
        -------
        torch.Tensor
            int64, shape ``(N, 133)``.
        """
        if corruption is None:
            return self.tokenizer(self._split.read(BARCODE, rows))
        change = partial(damage_barcode, damage=CORRUPTIONS[corruption])
        return self._read_changed(rows, change, tuple(corruption.encode()))

    def describe(self, row: int) -> str:
        """Return file, split and row of a specimen, for messages."""
        return self._split.describe(row)

    def __getitem__(self, idx: int) -> Example:
        """Return one specimen, ready for the encoders; see the class for what it holds.

        Augmentation draws from PyTorch's generator, as in other datasets.
        """
        batch = self.read_batch([idx], seed=(int(torch.randint(2**62, ())),))
        return Example({key: value[0] for key, value in finish_batch(batch).items()})

    def read_batch(self, indices: Sequence[int], seed: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Read many specimens at once, which takes less time than one by one.

        Parameters
        ----------
        indices : sequence of int
            Rows of the split, in any order.
        seed : tuple of int
            Numbers that, with a specimen's row, decide its augmentation: the same numbers give the
            same photo in any batch, order or process.

        Returns
        -------
        dict of str to torch.Tensor
            As in the class, with a first dimension of ``len(indices)``; but photos are uint8, and
            :func:`~projects.bioscan_clip.datasets.transforms.finish_batch` makes them what encoders
            take. Those for training come with ``rgb_pose``, float32 ``(B, 2, 2)``, for it.

        Raises
        ------
        BadRowError
            If a photo does not decode and `on_bad_image` is ``"raise"``.
        """
        rows = np.array(indices, dtype=np.int64)
        if self._image_column == IMAGE:
            photos, used = self._read_photos(rows, seed)
        else:
            photos, used = {"rgb": self._read_features(IMAGE_FEATURES, rows)}, rows
        return photos | {
            "dna": self._read_dna(used, seed),
            "text": _as_int64(self._split.read(TEXT_IDS, used)),
            "text_attention_mask": _as_int64(self._split.read(TEXT_MASK, used)),
            "labels": torch.from_numpy(self._split.labels[used]),
            "bin": torch.from_numpy(self._split.bins[used]),
            EXAMPLE_INDEX_KEY: torch.from_numpy(used),
            "bad_image": torch.from_numpy((used != rows).astype(np.int64)),
        }

    def _read_photos(
        self, rows: IntArray, seed: tuple[int, ...]
    ) -> tuple[dict[str, torch.Tensor], IntArray]:
        """Read photos, and the rows that they are of, which differ where one does not decode."""
        size = self.image_size
        photos = torch.empty((len(rows), 3, size, size), dtype=torch.uint8)
        if get_worker_info() is not None:
            photos.share_memory_()  # from where they are sent without another copy
        poses = torch.empty((len(rows), 2, 2))
        used = rows.copy()
        for place, jpeg in enumerate(self._split.read_jpegs(rows)):
            photo, used[place] = self._usable_photo(int(rows[place]), jpeg)
            if self.for_training:
                rng = np.random.default_rng((*seed, int(rows[place])))
                drawn = draw_augmentation(photo.shape[1], photo.shape[2], rng)
                photos[place] = training_view(photo, size, drawn, self.interpolation)
                poses[place] = torch.from_numpy(drawn.pose)
            else:
                photos[place] = evaluation_view(photo, size, self.interpolation)
        return {"rgb": photos, POSE: poses} if self.for_training else {"rgb": photos}, used

    def _usable_photo(self, row: int, jpeg: ByteArray) -> tuple[torch.Tensor, int]:
        """Decode a photo, or the next one that can be decoded; return also its row."""
        for step in range(_MOST_BAD_IMAGES_IN_A_ROW):
            candidate = (row + step) % len(self)
            try:
                if step:
                    jpeg = self._split.read_jpegs(np.array([candidate]))[0]
                return decode_photo(jpeg), candidate
            except ValueError as error:
                problem = self._split.bad_photo(candidate, str(error))
                if self.on_bad_image == "raise":
                    raise problem from error
                logger.warning("Skipped a photo, taking the next specimen instead. %s", problem)
        raise BadRowError(
            f"{self._split.describe(row)}: this photo and the next {_MOST_BAD_IMAGES_IN_A_ROW - 1} "
            "cannot be decoded, so the file is damaged; build or download it again."
        )

    def _read_dna(self, rows: IntArray, seed: tuple[int, ...]) -> torch.Tensor:
        if self._dna_column == DNA_FEATURES:
            return self._read_features(DNA_FEATURES, rows)
        if self._most_damage is None:
            return self.read_barcodes(rows)
        change = partial(augment_barcode, most=self._most_damage)
        return self._read_changed(rows, change, (*seed, _OF_BARCODES))

    def _read_changed(
        self,
        rows: IntArray,
        change: Callable[[bytes, np.random.Generator], bytes],
        seed: tuple[int, ...],
    ) -> torch.Tensor:
        rngs = (np.random.default_rng((*seed, row)) for row in rows.tolist())
        barcodes = self._split.read(BARCODE, rows).tolist()
        return self.tokenizer(list(map(change, barcodes, rngs)))

    def _read_features(self, column: str, rows: IntArray) -> torch.Tensor:
        features = self._split.read(column, rows).astype(np.float32)
        if not np.isfinite(features).all():
            row = int(rows[np.isfinite(features).all(axis=1).argmin()])
            raise BadRowError(
                f"{self._split.describe(row)}: `{column}` holds a number that is NaN or infinite. "
                "Compute the features again."
            )
        return torch.from_numpy(features)


def _as_int64(tokens: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(tokens.astype(np.int64))


def _warn_of_expensive_photos(split: HDF5Split) -> None:
    storage = split.photo_storage
    if storage is not None and storage.is_expensive:
        logger.warning(
            f"{split.path} stores photos so that reading one of {storage.row_bytes:,} bytes reads "
            f"{storage.touched_bytes:,} bytes from disk. `bioscan-clip data repack {split.path} "
            "--out <file>` writes a file without this cost."
        )
