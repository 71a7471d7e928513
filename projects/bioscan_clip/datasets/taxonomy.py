"""Taxon names as integer codes, so that labels can travel in tensors."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.datasets.schema import UNKNOWN_NAMES

UNKNOWN = -1
"""The code of a missing label."""

_ROWS_AT_ONCE = 1 << 16
_ODD = np.uint64(0x9E3779B97F4A7C15)


def taxon_code(name: bytes) -> int:
    """Return the code of one taxon or BIN: 63 bits of the name's BLAKE2b digest.

    A hash needs no vocabulary, so the same name has the same code in every split, file and process.
    Two of a million names share a code with a probability of about 5e-8.

    Parameters
    ----------
    name : bytes
        Name as the file holds it; those of ``UNKNOWN_NAMES`` are unknown.

    Returns
    -------
    int
        A non-negative code, or -1 if the name is unknown.
    """
    if name in UNKNOWN_NAMES:
        return UNKNOWN
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1


def encode_taxa(names: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """Encode names, hashing each distinct one once.

    Parameters
    ----------
    names : numpy.ndarray
        Bytes, shape ``(N,)``.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(N,)``; see :func:`taxon_code`.
    """
    return next(_encode([names]))


def encode_column(column: h5py.Dataset) -> npt.NDArray[np.int64]:
    """Encode a column of names of an HDF5 file, in blocks, so that memory stays bounded.

    Parameters
    ----------
    column : h5py.Dataset
        Bytes, shape ``(N,)``.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(N,)``; see :func:`taxon_code`.

    Raises
    ------
    ValueError
        If the column holds no text. One of NaN only is a column of unknown names.
    """
    if column.dtype.kind not in "SO" and not (
        column.dtype.kind == "f" and bool(np.isnan(column[:]).all())
    ):
        raise ValueError(
            f"{column.file.filename}, {column.name.lstrip('/')} holds {column.dtype}, but should "
            "hold names as text. Build or download the file again."
        )
    codes = np.empty(len(column), dtype=np.int64)
    starts = range(0, len(column), _ROWS_AT_ONCE)
    blocks = (column[start : start + _ROWS_AT_ONCE] for start in starts)
    for start, block in zip(starts, _encode(blocks), strict=True):
        codes[start : start + len(block)] = block
    return codes


def _encode(blocks: Iterable[npt.NDArray[np.bytes_]]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the codes of one block of names after the other."""
    known = pd.Series(dtype=np.int64, index=pd.Index([], dtype=np.uint64))
    for block in blocks:
        names = block.astype(bytes)
        positions, mixed = pd.factorize(_mixed(names))
        distinct = pd.Index(mixed)
        examples = np.empty(len(distinct), dtype=np.int64)
        examples[positions] = np.arange(len(names))
        new = np.flatnonzero(known.index.get_indexer(distinct) < 0)
        codes = [taxon_code(name) for name in names[examples[new]]]
        known = pd.concat([known, pd.Series(codes, index=distinct[new], dtype=np.int64)])
        yield known.to_numpy()[known.index.get_indexer(distinct)][positions]


def _mixed(names: npt.NDArray[np.bytes_]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit number per name, the same for equal names, ten times as fast as BLAKE2b.

    Multiplying by an odd number and folding the high half down can be undone, so that names that
    differ in one word of eight bytes never meet, and others with a probability of 2**-64.
    """
    width = -(-names.dtype.itemsize // 8) * 8
    words = names.astype(f"S{width}").view(np.uint64).reshape(len(names), width // 8)
    mixed = np.zeros(len(names), dtype=np.uint64)
    for word in words.T:
        mixed = (mixed ^ word) * _ODD
        mixed ^= mixed >> np.uint64(32)
    return mixed
