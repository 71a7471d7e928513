"""Barcodes that share most k-mers: nearest ones that no model needs to have learnt."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from projects.bioscan_clip.inference.barcodes import kmers_of, padded

_KMERS: Final = 4**8
_STRIDE: Final = 4  # of a query's k-mers, one in so many is looked up
_AT_ONCE: Final = 128


class KmerIndex:
    """Which k-mers each of N barcodes has.

    Parameters
    ----------
    barcodes : iterable of sequence of str
        Barcodes in blocks; empty ones share nothing.
    """

    def __init__(self, barcodes: Iterable[Sequence[str]]) -> None:
        parts = [_presence(block, stride=1) for block in barcodes]
        self._by_kmer = sparse.vstack(parts).T.tocsr()  # a row per k-mer: its barcodes

    def search(
        self, barcodes: Sequence[str], allowed: npt.NDArray[np.bool_], k: int
    ) -> npt.NDArray[np.int64]:
        """Find those that share most k-mers with each of Q barcodes.

        Parameters
        ----------
        barcodes : sequence of str
            The queries; none of them empty.
        allowed : numpy.ndarray
            bool, shape ``(N,)``, which may be found.
        k : int
            How many to find.

        Returns
        -------
        numpy.ndarray
            int64, shape ``(Q, min(k, N))``, in any order; -1 for what shares nothing.
        """
        k = min(k, len(allowed))
        found = np.empty((len(barcodes), k), dtype=np.int64)
        for start in range(0, len(barcodes), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            shared = (_presence(barcodes[some], _STRIDE) @ self._by_kmer).toarray() * allowed
            order = np.arange(len(allowed)) - shared.astype(np.int64) * len(allowed)  # no ties
            best = np.argpartition(order, k - 1, axis=1)[:, :k]
            found[some] = np.where(np.take_along_axis(shared, best, axis=1) > 0, best, -1)
        return found


def _presence(barcodes: Sequence[str], stride: int) -> sparse.csr_matrix:
    """Return which k-mers barcodes have, of those at every so many bases: int16, ``(N, 4**8)``."""
    kmers = kmers_of(padded(barcodes))[:, ::stride]
    rows, columns = np.nonzero(kmers >= 0)
    pairs = np.unique(rows * _KMERS + kmers[rows, columns])
    ones = np.ones(len(pairs), dtype=np.int16)
    return sparse.csr_matrix((ones, (pairs // _KMERS, pairs % _KMERS)), (len(barcodes), _KMERS))
