"""DNA barcodes to k-mer tokens, the input of BarcodeBERT."""

from collections.abc import Sequence
from typing import Final, overload

import numpy as np
import torch

MASK_ID: Final = 0
CLS_ID: Final = 1
UNKNOWN_ID: Final = 2
FIRST_KMER_ID: Final = 3

Barcode = str | bytes


class KmerTokenizer:
    """Tokenize barcodes into k-mers, as BarcodeBERT was pretrained.

    A barcode is cut or padded with ``N`` to ``max_length`` bases and read in windows of ``k``
    bases, ``stride`` bases apart. The vocabulary is ``[MASK]``, ``[CLS]``, ``[UNK]`` and the
    ``4 ** k`` k-mers over ACGT in alphabetical order: 1027 tokens for ``k=5``. A window that holds
    anything else (``N``, a gap, an IUPAC code, a lower-case base) is ``[UNK]``. ``[CLS]`` comes
    first.

    Parameters
    ----------
    k : int, default=5
        Bases per window.
    stride : int, default=5
        Bases from one window to the next.
    max_length : int, default=660
        Bases that are read of each barcode.

    Raises
    ------
    ValueError
        If an argument is not positive, or ``max_length`` is shorter than one window.

    Examples
    --------
    >>> KmerTokenizer(k=2, stride=2, max_length=6)("ACGTN")
    tensor([ 1,  4, 14,  2])
    """

    def __init__(self, k: int = 5, stride: int = 5, max_length: int = 660) -> None:
        if k < 1 or stride < 1 or max_length < k:
            raise ValueError(
                f"A k-mer tokenizer needs k >= 1, stride >= 1 and max_length >= k, "
                f"but got k={k}, stride={stride}, max_length={max_length}."
            )
        self.k = k
        self.stride = stride
        self.max_length = max_length
        # Anything but a base counts so far below zero that its window's number is negative.
        self._base_codes = np.full(256, -(4**k), dtype=np.int64)
        self._base_codes[np.frombuffer(b"ACGT", dtype=np.uint8)] = np.arange(4)

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return int(FIRST_KMER_ID + 4**self.k)

    @property
    def num_tokens(self) -> int:
        """Tokens per barcode, ``[CLS]`` included."""
        return 1 + (self.max_length - self.k) // self.stride + 1

    @overload
    def __call__(self, barcodes: Barcode) -> torch.Tensor: ...
    @overload
    def __call__(self, barcodes: Sequence[Barcode]) -> torch.Tensor: ...
    def __call__(self, barcodes: Barcode | Sequence[Barcode]) -> torch.Tensor:
        """Tokenize one barcode or many.

        Parameters
        ----------
        barcodes : str, bytes or sequence of them
            Nucleotides; any length, also empty.

        Returns
        -------
        torch.Tensor
            int64, shape ``(num_tokens,)`` for one barcode and ``(N, num_tokens)`` for a sequence.
        """
        if isinstance(barcodes, str | bytes):
            return self._tokenize([barcodes])[0]
        return self._tokenize(barcodes)

    def _tokenize(self, barcodes: Sequence[Barcode]) -> torch.Tensor:
        padded = b"".join(self._pad(barcode) for barcode in barcodes)
        bases = np.frombuffer(padded, dtype=np.uint8).reshape(len(barcodes), self.max_length)
        codes = self._base_codes[bases]
        last_start = self.max_length - self.k
        numbers = np.zeros((len(barcodes), self.num_tokens - 1), dtype=np.int64)
        for offset in range(self.k):  # a k-mer is a number with k digits in base 4
            numbers = 4 * numbers + codes[:, offset : last_start + offset + 1 : self.stride]

        tokens = np.full((len(barcodes), self.num_tokens), CLS_ID, dtype=np.int64)
        tokens[:, 1:] = np.where(numbers < 0, UNKNOWN_ID, FIRST_KMER_ID + numbers)
        return torch.from_numpy(tokens)

    def _pad(self, barcode: Barcode) -> bytes:
        barcode = barcode[: self.max_length]
        # A character outside ASCII is one unknown base, not several bytes.
        ascii_only = barcode if isinstance(barcode, bytes) else barcode.encode("ascii", "replace")
        return ascii_only.ljust(self.max_length, b"N")
