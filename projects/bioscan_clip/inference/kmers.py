"""Barcodes that share most k-mers: nearest ones that no model needs to have learnt."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from projects.bioscan_clip.inference.barcodes import kmers_of, padded
from projects.bioscan_clip.scoring.neighbours import blocks

_KMERS: Final = 4**8
_STRIDE: Final = 4  # of a query's k-mers, one in so many is looked up
_AT_ONCE: Final = 128
_COMMON: Final = 0.05  # a k-mer that more barcodes have costs most of the time, and tells least
_FEW: Final = 1000  # barcodes among which all k-mers count


class KmerIndex:
    """Which k-mers each of N barcodes has.

    Parameters
    ----------
    barcodes : iterable of sequence of str
        Barcodes in blocks; empty ones share nothing.
    """

    def __init__(self, barcodes: Iterable[Sequence[str]]) -> None:
        by_barcode = sparse.vstack([_presence(block, stride=1) for block in barcodes])
        held = np.asarray(by_barcode.sum(axis=0)).ravel()
        rare = held <= max(_FEW, _COMMON * by_barcode.shape[0])
        self._by_kmer = (by_barcode @ sparse.diags_array(rare, dtype=np.int32)).T.tocsr()

    def search(
        self, barcodes: Sequence[str], allowed: npt.NDArray[np.bool_], k: int
    ) -> npt.NDArray[np.int64]:
        """Find those that share most k-mers with each of Q barcodes.

        K-mers that more than a twentieth of many barcodes have do not count.

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
            int64, shape ``(Q, min(k, N))``, most first, of equals the first in the index; -1 for
            what shares nothing.
        """
        count = len(allowed)
        k = min(k, count)
        weight, order = (allowed * count).astype(np.int32), np.arange(count, dtype=np.int32)

        def find(some: slice) -> npt.NDArray[np.int64]:
            shared = (_presence(barcodes[some], _STRIDE) @ self._by_kmer).toarray()
            best = torch.from_numpy(shared * weight - order).topk(k)
            return torch.where(best.values > 0, best.indices, -1).numpy()

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # products do not hold the GIL
            found = threads.map(find, blocks(len(barcodes), _AT_ONCE))
            return np.concatenate([np.empty((0, k), dtype=np.int64), *found])


def _presence(barcodes: Sequence[str], stride: int) -> sparse.csr_array:
    """Return which k-mers barcodes have, of those at every so many bases: 0 or 1, (N, 4**8)."""
    kmers = kmers_of(padded(barcodes))[:, ::stride]
    rows, columns = np.nonzero(kmers >= 0)
    pairs = np.unique(rows * _KMERS + kmers[rows, columns])
    places = (pairs // _KMERS).astype(np.int32), (pairs % _KMERS).astype(np.int32)
    ones = np.ones(len(pairs), dtype=np.int32)
    return sparse.csr_array((ones, places), (len(barcodes), _KMERS))
