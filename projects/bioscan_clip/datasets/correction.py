"""Reading errors of barcodes, found and corrected by the known barcodes that are most alike."""

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

_NEAREST: Final = 50
_BASES_AROUND: Final = 25
_AGREEING: Final = 0.4


class KmerCorrection:
    """Replaces k-mers by those of known barcodes that agree with what is around them.

    A k-mer is compared with that of the known barcode which agrees with most of the 25 bases on
    either side, as haplotypes are imputed. If the two differ by one base, that base is taken for a
    reading error. Ties go to a barcode that has the k-mer itself, then to the one most alike as a
    whole. Where less than two fifths of the k-mers around agree with any, as in a barcode that is
    read in another frame, nothing is changed. What was not read (N) is not filled in.

    Species that no known barcode is of come closer to their relatives by this, since a base of
    their own looks like an error: do not look for new species with it.

    Parameters
    ----------
    tokenizer : KmerTokenizer
        What the tokens are of.
    known : torch.Tensor
        int64, shape ``(N, T)``; tokens of known barcodes, in the frame of those to correct, on the
        device where these are.
    """

    def __init__(self, tokenizer: KmerTokenizer, known: Tensor) -> None:
        self._known = known.unique(dim=0)
        self._first_kmer = tokenizer.vocab_size - 4**tokenizer.k
        self._powers = 4 ** torch.arange(tokenizer.k, device=known.device)
        self._around = -(-_BASES_AROUND // tokenizer.stride)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the corrected tokens; int64, shape ``(M, T)`` as `tokens`."""
        return torch.stack([self._correct(barcode) for barcode in tokens])

    def _correct(self, barcode: Tensor) -> Tensor:
        """Correct one barcode (T,)."""
        is_kmer = barcode >= self._first_kmer
        kmers = barcode.where(is_kmer, -1)  # no token, so that N agrees with nothing
        alike = (self._known == kmers).sum(dim=1)
        near = self._known[alike.topk(min(_NEAREST, len(alike))).indices]
        agrees = near == kmers
        around, there = self._count_around(agrees), self._count_around(is_kmer[None])[0]
        best = (around + agrees / 2).argmax(dim=0, keepdim=True)  # half a k-mer decides ties
        found = near.gather(0, best)[0]
        is_error = is_kmer & (found >= self._first_kmer) & self._differ_by_one(found, barcode)
        is_error &= around.gather(0, best)[0] >= _AGREEING * there.clamp(min=self._around)
        corrected: Tensor = found.where(is_error, barcode)
        return corrected

    def _count_around(self, chosen: Tensor) -> Tensor:
        """Count the chosen places (R, T) near each place, without itself."""
        window = 2 * self._around + 1
        total: Tensor = avg_pool1d(chosen.float(), window, 1, self._around) * window
        return total.round() - chosen.float()

    def _differ_by_one(self, kmers: Tensor, others: Tensor) -> Tensor:
        """Say where k-mers (T,) differ by one base; of other tokens it means nothing."""
        first, second = (
            (tokens - self._first_kmer)[:, None] // self._powers % 4 for tokens in (kmers, others)
        )
        is_one: Tensor = (first != second).sum(dim=1) == 1
        return is_one
