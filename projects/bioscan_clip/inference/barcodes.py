"""Barcodes as they come, made what the DNA encoder was trained on.

Its tokens are k-mers at fixed places, so a barcode with one base more or less in front, or of the
other strand, reads as another text. Here a barcode is placed on the coordinates of the region that
the model was trained on: each of its k-mers votes for the place where training barcodes have it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

BytesArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

_K: Final = 8
_AT_ONCE: Final = 128  # barcodes whose votes stay in a core's cache

# In random sequences of 658 bases, at most 15 to 20 k-mers agree on a place, and on no place much
# more than on others; in barcodes of an order that no reference is of, more than 100 do.
_FEWEST_VOTES: Final = 16
_CLEAR_LEAD: Final = 2.0
_NEARBY: Final = 15  # a base lost or gained in the middle splits the votes between near places

_SHORT: Final = 200
_MOST_UNKNOWN: Final = 0.05
_STOP_CODONS: Final = ("TAA", "TAG")  # NCBI's table 5, invertebrate mitochondria: TGA is Trp
_FEWEST_TRANSLATED: Final = 0.98

UNLIKE_COI: Final = "does not look like a COI barcode"
"""What is said of a text that cannot be placed on the region."""

COI_BARCODES: Final = Path(__file__).parent / "coi_barcodes.fasta"
"""Barcodes of the standard region, 658 bases between the primers LCO1490 and HCO2198."""

_GAPS: Final = "-.~*"
_BASES: Final = "ACGTRYSWKMBDHVN"
_CLEANED: Final = str.maketrans(
    {base.lower(): base for base in _BASES}
    | {"U": "T", "u": "T", "?": "N", "X": "N", "x": "N"}
    | dict.fromkeys((*_GAPS, *" \t\r\n\f\v"), None)
)
_COMPLEMENT: Final = str.maketrans("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN")

_DIGITS: Final = np.full(256, -(4**_K), dtype=np.int64)  # so low that a k-mer with it is negative
for _digit, _base in enumerate(b"ACGT"):
    _DIGITS[_base] = _digit


@dataclass(frozen=True, slots=True)
class PreparedBarcode:
    """A barcode in the frame that the model knows, and what was done to it.

    Attributes
    ----------
    text : str
        Upper case; its first character stands at the region's first base, N where bases are
        missing in front.
    is_reversed : bool
        Whether it was the other strand.
    shift : int
        Places that its first base was moved to the right: so many N were put in front. Negative:
        so many bases in front of the region, such as a primer, were cut off.
    cut : int
        Bases after the region that were cut off.
    warnings : tuple of str
        What makes it less reliable; empty if nothing does.
    """

    text: str
    is_reversed: bool = False
    shift: int = 0
    cut: int = 0
    warnings: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say in words what was done; empty if nothing was."""
        done = [
            "reverse complement taken" if self.is_reversed else "",
            f"begins at base {self.shift + 1}" if self.shift > 0 else "",
            f"{-self.shift} bases in front cut off" if self.shift < 0 else "",
            f"{self.cut} bases at the end cut off" if self.cut else "",
        ]
        return ", ".join(part for part in done if part)


def clean_barcode(barcode: str) -> str:
    """Write a barcode in the letters that tokens are made of.

    Parameters
    ----------
    barcode : str
        Nucleotides in any case, DNA or RNA, with IUPAC's codes for several bases; perhaps with
        gaps of an alignment and white space.

    Returns
    -------
    str
        Upper case, T for U, N for ``?`` and ``X``, without gaps and white space.

    Raises
    ------
    ValueError
        If anything else is in it, or no base is known.
    """
    cleaned = barcode.translate(_CLEANED)
    if not cleaned.strip("N"):
        raise ValueError("The barcode is empty." if not cleaned else "The barcode holds only N.")
    strange = set(cleaned).difference(_BASES)
    if strange:
        shown = barcode if len(barcode) <= 30 else f"{barcode[:27]}..."
        raise ValueError(
            f"The barcode {shown!r} holds {', '.join(map(repr, sorted(strange)))}, which is no "
            "code of a nucleotide; expected A, C, G, T, N and IUPAC's other codes."
        )
    return cleaned


class BarcodePlacer:
    """Find strand and first base of barcodes by votes of their k-mers.

    A table says at which place of the region training barcodes have a k-mer. Each k-mer of a new
    barcode votes for where the barcode then must begin; the place with most votes wins, over both
    strands. This needs neither an alignment nor that a related species is known: some conserved
    k-mers are enough.

    Parameters
    ----------
    references : sequence of str, optional
        Barcodes of the training data, most of which begin at the region's first base and end at its
        last one; the few that do not are placed by the others. Defaults to five public ones of the
        standard COI region, see :data:`COI_BARCODES`, by which those of other insects are placed
        too.

    Attributes
    ----------
    length : int
        Bases of the region: the commonest length of the references.
    codon_start : int or None
        Where in the region the first whole codon begins, 0 to 2; None if the references are not
        translated without stop codons in any frame, as invented ones are not.

    Raises
    ------
    ValueError
        If a reference is no barcode.
    """

    def __init__(self, references: Sequence[str] = ()) -> None:
        references = references or _read_coi_barcodes()
        cleaned = [clean_barcode(barcode) for barcode in references]
        self.length = Counter(map(len, cleaned)).most_common(1)[0][0]
        self.codon_start: int | None = None
        self._table = self._vote_table(cleaned)
        # The few references that begin elsewhere have voted for wrong places: place them first.
        placed = [prepared.text for prepared in self.prepare(cleaned)]
        self._table = self._vote_table(placed)
        self.codon_start = _codon_start(placed)

    def prepare(self, barcodes: Sequence[str]) -> list[PreparedBarcode]:
        """Clean barcodes and place them on the region.

        Parameters
        ----------
        barcodes : sequence of str
            As they come; see :func:`clean_barcode`.

        Returns
        -------
        list of PreparedBarcode
            One per barcode. One that looks like no barcode of this region is cleaned only.

        Raises
        ------
        ValueError
            If one holds other letters than nucleotides'.
        """
        prepared = []
        for start in range(0, len(barcodes), _AT_ONCE):
            forward = [clean_barcode(barcode) for barcode in barcodes[start : start + _AT_ONCE]]
            reverse = [barcode.translate(_COMPLEMENT)[::-1] for barcode in forward]
            shifts, votes, clear = self._place(forward)
            shifts_back, votes_back, clear_back = self._place(reverse)
            is_reversed = np.where(clear == clear_back, votes_back > votes, clear_back)
            for row, back in enumerate(is_reversed.tolist()):
                text = reverse[row] if back else forward[row]
                found = bool((clear_back if back else clear)[row])
                shift = int((shifts_back if back else shifts)[row])
                prepared.append(self._prepare(text if found else forward[row], back, shift, found))
        return prepared

    def _prepare(self, text: str, is_reversed: bool, shift: int, found: bool) -> PreparedBarcode:
        if not found:
            return PreparedBarcode(text, warnings=(UNLIKE_COI, *_warn(text, None)))
        placed = "N" * shift + text[max(-shift, 0) :]
        kept = placed[: self.length]
        warnings = _warn(kept[max(shift, 0) :], self._first_codon(shift))
        return PreparedBarcode(kept, is_reversed, shift, len(placed) - len(kept), warnings)

    def _first_codon(self, shift: int) -> int | None:
        """Return where in a barcode the first whole codon begins."""
        return None if self.codon_start is None else (self.codon_start - max(shift, 0)) % 3

    def _vote_table(self, placed: Sequence[str]) -> npt.NDArray[np.int16]:
        """Return the commonest place of each k-mer: int16, shape ``(4**k,)``, -1 if unknown."""
        codes, places = [], []
        for block in _blocks([barcode[: self.length] for barcode in placed]):
            kmers = kmers_of(block)
            rows, columns = np.nonzero(kmers >= 0)
            codes.append(kmers[rows, columns])
            places.append(columns)
        pairs = np.concatenate(codes).astype(np.int64) << 16 | np.concatenate(places)
        distinct, counts = np.unique(pairs, return_counts=True)
        table = np.full(4**_K, -1, dtype=np.int16)
        order = np.argsort(counts, kind="stable")  # the commonest is written last, and stays
        table[distinct[order] >> 16] = distinct[order] & 0xFFFF
        return table

    def _place(self, barcodes: Sequence[str]) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
        """Return for each barcode its shift, the votes for it, and whether they are clear."""
        kmers = kmers_of(padded(barcodes))
        rows, columns = np.nonzero(kmers >= 0)
        places = self._table[kmers[rows, columns]]
        known = places >= 0
        rows, shifts = rows[known], places[known] - columns[known]
        first = -kmers.shape[1]
        width = self.length + kmers.shape[1] + 1
        votes = np.bincount(rows * width + shifts - first, minlength=len(barcodes) * width)
        votes = votes.reshape(len(barcodes), width)
        best = votes.argmax(axis=1)
        highest = votes.max(axis=1)
        near = best[:, None] + np.arange(-_NEARBY, _NEARBY + 1)
        np.put_along_axis(votes, near.clip(0, width - 1), 0, axis=1)
        clear = (highest >= _FEWEST_VOTES) & (highest >= _CLEAR_LEAD * votes.max(axis=1))
        return best + first, highest, clear


def _read_coi_barcodes() -> list[str]:
    records = COI_BARCODES.read_text().split(">")[1:]
    return ["".join(record.splitlines()[1:]) for record in records]


def _warn(bases: str, first_codon: int | None) -> tuple[str, ...]:
    known = len(bases) - bases.count("N")
    warnings = []
    if known < _SHORT:
        warnings.append(f"only {known} known bases")
    if bases and known < (1 - _MOST_UNKNOWN) * len(bases):
        warnings.append(f"{1 - known / len(bases):.0%} of the bases are N")
    if first_codon is not None and _stop_codons(bases, first_codon):
        warnings.append("stop codons: perhaps a pseudogene or a sequencing error")
    return tuple(warnings)


def _stop_codons(bases: str, first: int) -> int:
    codons = [bases[place : place + 3] for place in range(first, len(bases) - 2, 3)]
    return sum(codon in _STOP_CODONS for codon in codons)


def _codon_start(placed: Sequence[str]) -> int | None:
    """Return the frame in which nearly all references are translated without stop codons."""
    translated = [
        sum(not _stop_codons(barcode, frame) for barcode in placed) / len(placed)
        for frame in range(3)
    ]
    best = int(np.argmax(translated))
    return best if translated[best] >= _FEWEST_TRANSLATED else None


def _blocks(barcodes: Sequence[str]) -> Iterator[BytesArray]:
    for start in range(0, len(barcodes), _AT_ONCE):
        yield padded(barcodes[start : start + _AT_ONCE])


def padded(barcodes: Sequence[str]) -> BytesArray:
    """Return one byte per base, padded with NUL: uint8, shape ``(N, L)`` with L at least k."""
    width = max([_K, *map(len, barcodes)])
    return np.array(barcodes, dtype=f"S{width}").view(np.uint8).reshape(len(barcodes), width)


def kmers_of(bases: BytesArray) -> IntArray:
    """Return the number of each k-mer, negative where it holds anything but A, C, G and T.

    int64, shape ``(N, L - k + 1)``.
    """
    digits = _DIGITS[bases]
    windows = bases.shape[1] - _K + 1
    kmers = np.zeros((len(bases), windows), dtype=np.int64)
    for place in range(_K):
        kmers = kmers * 4 + digits[:, place : place + windows]
    return kmers
