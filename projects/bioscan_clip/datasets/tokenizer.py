"""DNA barcodes to k-mer tokens, the input of BarcodeBERT."""

from collections.abc import Sequence
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import torch

MASK_ID: Final = 0
CLS_ID: Final = 1
UNKNOWN_ID: Final = 2
FIRST_KMER_ID: Final = 3

Barcode = str | bytes
Barcodes = Sequence[Barcode] | npt.NDArray[np.bytes_]

_BARCODES_AT_ONCE = 256  # what fits a core's cache


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
    cls_token : bool, default=True
        Whether there is a ``[CLS]``. Newer BarcodeBERTs have none: ``[UNK]`` is 1, k-mers begin
        with 2, and a barcode begins with its first k-mer.

    Raises
    ------
    ValueError
        If an argument is not positive, or ``max_length`` is shorter than one window.

    Examples
    --------
    >>> KmerTokenizer(k=2, stride=2, max_length=6)("ACGTN")
    tensor([ 1,  4, 14,  2])
    """

    def __init__(
        self, k: int = 5, stride: int = 5, max_length: int = 660, cls_token: bool = True
    ) -> None:
        if k < 1 or stride < 1 or max_length < k:
            raise ValueError(
                f"A k-mer tokenizer needs k >= 1, stride >= 1 and max_length >= k, "
                f"but got k={k}, stride={stride}, max_length={max_length}."
            )
        self.k = k
        self.stride = stride
        self.max_length = max_length
        self.cls_token = cls_token
        self._unknown = UNKNOWN_ID if cls_token else CLS_ID
        # A k-mer is a number with k digits in base 4. `_digits[i]` maps a byte to its share of that
        # number at place i; anything but a base counts so far below zero that the sum is negative.
        kmers = 4**k
        dtype = np.int16 if (k + 1) * kmers < 2**15 else np.int64
        self._digits = np.full((k, 256), -kmers, dtype=dtype)
        for digit, base in enumerate(b"ACGT"):
            self._digits[:, base] = digit * 4 ** np.arange(k)[::-1]

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        return int(self._unknown + 1 + 4**self.k)

    @property
    def num_tokens(self) -> int:
        """Tokens per barcode, ``[CLS]`` included."""
        return self.cls_token + (self.max_length - self.k) // self.stride + 1

    @overload
    def __call__(self, barcodes: Barcode) -> torch.Tensor: ...
    @overload
    def __call__(self, barcodes: Barcodes) -> torch.Tensor: ...
    def __call__(self, barcodes: Barcode | Barcodes) -> torch.Tensor:
        """Tokenize one barcode or many.

        Parameters
        ----------
        barcodes : str, bytes, or a sequence or array of them
            Nucleotides; any length, also empty.

        Returns
        -------
        torch.Tensor
            int64, shape ``(num_tokens,)`` for one barcode and ``(N, num_tokens)`` for several.
        """
        if isinstance(barcodes, str | bytes):
            return self([barcodes])[0]
        tokens = np.full((len(barcodes), self.num_tokens), CLS_ID, dtype=np.int64)
        for start in range(0, len(barcodes), _BARCODES_AT_ONCE):
            block = slice(start, start + _BARCODES_AT_ONCE)
            tokens[block, int(self.cls_token) :] = self._tokenize(self._bases(barcodes[block]))
        return torch.from_numpy(tokens)

    def _bases(self, barcodes: Barcodes) -> npt.NDArray[np.uint8]:
        """Return one byte per base, cut or padded to `max_length`: uint8, shape ``(N, L)``."""
        if not isinstance(barcodes, np.ndarray):
            # A character outside ASCII is one unknown base, not several bytes.
            barcodes = [
                barcode if isinstance(barcode, bytes) else barcode.encode("ascii", "replace")
                for barcode in barcodes
            ]
        padded = np.array(barcodes, dtype=f"S{self.max_length}")  # with NUL, not a base either
        return padded.view(np.uint8).reshape(len(barcodes), self.max_length)

    def _tokenize(self, bases: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        last_start = self.max_length - self.k
        shape = (len(bases), self.num_tokens - self.cls_token)
        kmers: npt.NDArray[Any] = np.zeros(shape, dtype=self._digits.dtype)
        for place, digits in enumerate(self._digits):
            column = bases[:, place : last_start + place + 1 : self.stride]
            kmers += digits.take(column, mode="clip")  # a byte needs no check of bounds
        kmers += self._unknown + 1
        kmers[kmers <= self._unknown] = self._unknown
        return kmers
