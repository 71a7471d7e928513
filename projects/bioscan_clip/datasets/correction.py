"""Reading errors of barcodes, found and corrected by what other barcodes have at the same place."""

import torch

from projects.bioscan_clip.datasets.tokenizer import FIRST_KMER_ID, UNKNOWN_ID

_MOST_STRANGE = 0.5


class KmerCorrection:
    """Replaces k-mers that no known barcode has at their place.

    COI codes for a protein, so that at each place of the aligned region only some k-mers occur. One
    that does not is replaced by the one that differs by one base and is the most frequent there, or
    by ``[UNK]`` if there is none. A k-mer with an error that others have by nature stays. So does
    a barcode that is strange in more than half of its places, which is read in another frame.

    Parameters
    ----------
    known : torch.Tensor
        int64, shape ``(N, T)``; tokens of known barcodes, in the frame of those to correct.
    k : int
        Bases of a k-mer.
    """

    def __init__(self, known: torch.Tensor, k: int) -> None:
        self._counts = torch.zeros((known.shape[1], FIRST_KMER_ID + 4**k), dtype=torch.int32)
        ones = torch.ones((known.shape[1], len(known)), dtype=torch.int32)
        self._counts.scatter_add_(1, known.T, ones)
        self._places = 4 ** torch.arange(k)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the corrected tokens; int64, shape ``(M, T)`` as `tokens`."""
        strange = self._counts[torch.arange(tokens.shape[1]), tokens] == 0
        strange &= tokens >= FIRST_KMER_ID
        strange &= strange.float().mean(dim=1, keepdim=True) <= _MOST_STRANGE
        rows, places = strange.nonzero(as_tuple=True)
        near = FIRST_KMER_ID + self._neighbours(tokens[rows, places] - FIRST_KMER_ID)
        most, chosen = self._counts[places[:, None], near].max(dim=1)
        corrected = near.gather(1, chosen[:, None])[:, 0]
        tokens = tokens.clone()
        tokens[rows, places] = corrected.where(most > 0, UNKNOWN_ID)
        return tokens

    def _neighbours(self, kmers: torch.Tensor) -> torch.Tensor:
        """Return the k-mers (R, 3k) that differ from each of `kmers` (R,) by one base."""
        digits = kmers[:, None] // self._places % 4
        others = (digits[:, :, None] + torch.arange(1, 4)) % 4
        changes = (others - digits[:, :, None]) * self._places[:, None]
        return (kmers[:, None, None] + changes).flatten(1)
