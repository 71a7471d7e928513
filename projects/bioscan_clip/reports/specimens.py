"""Who the embedded specimens are: their ids and names, and their photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.datasets.schema import IDENTIFIERS, NOT_CLASSIFIED, RANKS
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset

COLUMNS: Final = (*IDENTIFIERS, *RANKS)


@dataclass(frozen=True)
class Specimens:
    """The specimens behind some embeddings, row by row.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per embedding: ``sampleid``, ``processid``, ``image_file``, ``order``, ``family``,
        ``genus`` and ``species``; strings, missing (NA) where unknown.
    read_photo : callable, optional
        Returns the JPEG bytes of the photo of a row; None where there are no photos.
    """

    table: pd.DataFrame
    read_photo: Callable[[int], bytes] | None = None

    def __getitem__(self, rows: npt.NDArray[Any]) -> "Specimens":
        """Return some of the specimens; `rows` are positions (int64) or a mask (bool)."""
        positions = np.arange(len(self.table))[rows]
        table = self.table.iloc[positions].reset_index(drop=True)
        read = self.read_photo
        if read is None:
            return Specimens(table)
        return Specimens(table, lambda row: read(int(positions[row])))

    @classmethod
    def concatenate(cls, parts: "Sequence[Specimens]") -> "Specimens":
        """Put specimens of several sets together."""
        if len(parts) == 1:
            return parts[0]
        table = pd.concat([part.table for part in parts], ignore_index=True)
        readers = [part.read_photo for part in parts]
        if any(reader is None for reader in readers):
            return cls(table)
        starts = np.cumsum([0, *(len(part.table) for part in parts)])

        def read_photo(row: int) -> bytes:
            part = int(np.searchsorted(starts, row, side="right")) - 1
            reader = readers[part]
            assert reader is not None
            return reader(row - int(starts[part]))

        return cls(table, read_photo)


def as_table(columns: dict[str, npt.NDArray[Any]], count: int) -> pd.DataFrame:
    """Make the table of `count` specimens from the columns that there are.

    Parameters
    ----------
    columns : dict of str to numpy.ndarray
        Bytes, shape ``(count,)``, by name; empty or ``b"not_classified"`` is unknown.
    count : int
        Specimens.

    Returns
    -------
    pandas.DataFrame
        See :class:`Specimens`.
    """
    table = pd.DataFrame(index=range(count), columns=list(COLUMNS), dtype="string")
    unknown = ["", NOT_CLASSIFIED.decode()]
    for name in COLUMNS:
        if name in columns:
            texts = pd.Series(columns[name].astype(bytes)).str.decode("utf-8", errors="replace")
            table[name] = texts.astype("string").mask(texts.isin(unknown))
    return table


def specimens_of(dataset: Any, rows: npt.NDArray[np.int64]) -> Specimens:
    """Look specimens of a dataset up.

    Parameters
    ----------
    dataset : BIOSCANInsectDataset or any other
        Where they are from; only those of a HDF5 file have ids, names and photos.
    rows : numpy.ndarray
        int64, shape ``(N,)``; their positions.

    Returns
    -------
    Specimens
        In the order of `rows`.
    """
    if not isinstance(dataset, BIOSCANInsectDataset):
        return Specimens(as_table({}, len(rows)))
    with open_file(dataset.path) as file:
        group = file[dataset.split]
        columns = {name: group[name][:][rows] for name in COLUMNS if name in group}
    table = as_table(columns, len(rows))
    if not dataset.has_photos:
        return Specimens(table)
    return Specimens(table, lambda row: dataset.read_jpeg(int(rows[row])))
