"""How a file stores photos, and what reading one of them costs."""

import math
from dataclasses import dataclass
from typing import Literal

import h5py

_EXPENSIVE = 4


@dataclass(frozen=True)
class PhotoStorage:
    """How an `image` dataset lies on disk.

    Attributes
    ----------
    layout : {"rows", "chunks", "variable-length"}
        ``rows``: one run of bytes per photo (a contiguous dataset). ``chunks``: HDF5 chunks, which
        can only be read whole. ``variable-length``: one array of its own length per photo.
    row_bytes : int
        Bytes of a padded row; 0 for ``variable-length``.
    touched_bytes : int
        Bytes of the chunks that one row lies in; `row_bytes` for ``rows``.
    """

    layout: Literal["rows", "chunks", "variable-length"]
    row_bytes: int
    touched_bytes: int

    @property
    def is_expensive(self) -> bool:
        """Whether reading one photo reads several times its row from disk."""
        return self.touched_bytes > _EXPENSIVE * self.row_bytes


def photo_storage(images: h5py.Dataset) -> PhotoStorage:
    """Return how an `image` dataset lies on disk.

    The published builder of BIOSCAN-5M leaves the shape of chunks to h5py, which takes (32, 1850):
    a row of 29,598 bytes lies in 16 chunks, 947,200 bytes in all.

    Parameters
    ----------
    images : h5py.Dataset
        uint8 ``(N, L)``, or ``(N,)`` of variable-length uint8.

    Returns
    -------
    PhotoStorage
        Its layout and costs in bytes.
    """
    if images.ndim == 1:
        return PhotoStorage("variable-length", 0, 0)
    row_bytes = images.shape[1]
    if images.chunks is None:
        return PhotoStorage("rows", row_bytes, row_bytes)
    rows, width = images.chunks
    touched = math.ceil(row_bytes / width) * rows * width
    return PhotoStorage("chunks", row_bytes, touched)
