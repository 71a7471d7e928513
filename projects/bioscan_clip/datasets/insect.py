"""INSECT, a benchmark of zero-shot learning: 21,212 photos and barcodes of 1,213 species.

Its files come in two layouts: those of the Hub's data set ``bioscan-ml/clibd``, and the published
ones of Badirli et al. (NeurIPS 2021) for MATLAB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.io import loadmat

from projects.bioscan_clip.datasets.hdf5 import open_file, own_member

SPLITS: Final = ("trainval", "train", "val", "test_seen", "test_unseen")

_METADATA: Final = "INSECT_metadata.csv"
_PHOTOS: Final = "INSECT_images.hdf5"
_FEATURES: Final = "res101.mat"
_SPLITS: Final = "att_splits.mat"
_COLUMNS: Final = ("ids", "labels", "nucleotides")


@dataclass(frozen=True)
class Insect:
    """The benchmark's specimens.

    Attributes
    ----------
    ids : sequence of str
        Of N specimens, by which photos are named.
    labels : numpy.ndarray
        int64, shape ``(N,)``, codes of species from 0 on.
    barcodes : sequence of str
        As they are in the files.
    splits : mapping of str to numpy.ndarray
        Rows, int64, of each of `SPLITS`; the classes of ``val`` are among those of ``trainval``.
    features : numpy.ndarray or None
        float32, shape ``(N, 2048)``, the published ResNet-101 features of photos; None if photos
        themselves are there.
    photos : pathlib.Path
        The file of the photos, if they are.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    barcodes: Sequence[str]
    splits: Mapping[str, npt.NDArray[np.int64]]
    features: npt.NDArray[np.float32] | None
    photos: Path

    def read_photos(self, at_once: int) -> Iterator[list[bytes]]:
        """Yield the files of all photos, some at once.

        Raises
        ------
        ValueError
            If one is not there, or lies in another file.
        """
        with open_file(self.photos) as file:
            group = own_member(file, "images")
            for start in range(0, len(self.ids), at_once):
                some = self.ids[start : start + at_once]
                yield [np.asarray(own_member(group, name)[:]).tobytes() for name in some]


def read_insect(folder: Path) -> Insect:
    """Read all but the photos.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``INSECT_metadata.csv``, or ``res101.mat`` and ``att_splits.mat``; and
        ``INSECT_images.hdf5``, without which the features in ``res101.mat`` stand for photos.

    Returns
    -------
    Insect
        The specimens.

    Raises
    ------
    FileNotFoundError
        If the files of neither layout are there.
    ValueError
        If one is damaged, lacks a column, or splits hold rows that are not there, or none.
    """
    photos = folder / _PHOTOS
    if (folder / _METADATA).is_file() and photos.is_file():
        source, columns, rows = folder / _METADATA, *_read_table(folder / _METADATA)
    elif (folder / _FEATURES).is_file() and (folder / _SPLITS).is_file():
        source, columns, rows = folder / _FEATURES, *_read_matlab(folder, not photos.is_file())
    else:
        raise FileNotFoundError(
            f"{folder} does not hold INSECT: expected {_METADATA} and {_PHOTOS}, or {_FEATURES} "
            f"and {_SPLITS}."
        )
    number = len(columns["ids"])
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{source}: the columns differ in their number of rows: {lengths}.")
    for name, split in rows.items():
        if len(split) == 0 or split.min() < 0 or split.max() >= number:
            raise ValueError(
                f"{source} has {number:,} specimens, but the split {name} has "
                f"{len(split):,} rows, which should be some of these. Download the files again."
            )
    return Insect(
        columns["ids"],
        np.unique(columns["labels"], return_inverse=True)[1].astype(np.int64),
        columns["nucleotides"],
        rows,
        columns.get("features"),
        photos,
    )


def _read_table(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.int64]]]:
    """Return columns, and rows of splits, which are columns of 0 and 1."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in (*_COLUMNS, *SPLITS) if name not in table]:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}. It has: {', '.join(map(str, table))}."
        )
    columns = {name: table[name].tolist() for name in _COLUMNS}
    return columns, {name: np.flatnonzero(table[name] == "1") for name in SPLITS}


def _read_matlab(
    folder: Path, wants_features: bool
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.int64]]]:
    """Return columns, with features if wanted, and rows of splits, which count from 1."""
    names = (*_COLUMNS, "features") if wants_features else _COLUMNS
    columns = _load(folder / _FEATURES, {name: (name,) for name in names})
    for name in ("ids", "nucleotides"):  # an empty text is an empty array
        columns[name] = ["".join(text).strip() for text in columns[name]]
    if wants_features:
        columns["features"] = np.asarray(columns["features"], dtype=np.float32).T
    # In the data of 2023, "val_unseen_loc".
    found = _load(
        folder / _SPLITS, {name: (f"{name}_loc", f"{name}_unseen_loc") for name in SPLITS}
    )
    return columns, {name: np.atleast_1d(found[name]).astype(np.int64) - 1 for name in SPLITS}


def _load(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return variables of a MATLAB file, each of which may be called this or that."""
    names = [name for called in wanted.values() for name in called]
    try:
        found = loadmat(path, variable_names=names, simplify_cells=True)
    except (OSError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({error}). If it was downloaded, compare its "
            "size with the original's."
        ) from error
    values = {
        name: found[called] for name, all_ in wanted.items() for called in all_ if called in found
    }
    if missing := [called[0] for name, called in wanted.items() if name not in values]:
        raise ValueError(f"{path} lacks {', '.join(missing)}.")
    return values
