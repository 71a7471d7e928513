"""What chance does to a training barcode, so that a model also reads ones that come otherwise."""

from typing import Final

import numpy as np

MAX_CUT_START: Final = 60
MAX_CUT_END: Final = 200
MAX_PRIMER: Final = 30
"""Bases that are cut off or put in front: a k-mer is then read in any frame."""

_WHOLE_SHARE = 0.5
_MUTATION_RATE = 0.01
_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)


def augment_barcode(barcode: bytes, rng: np.random.Generator) -> bytes:
    """Cut, shift and mutate a barcode.

    Half of the barcodes stay as they are. Of the others, one half loses up to 60 bases at the start
    and the other gets up to 30 in front, as of a primer; all lose up to 200 at the end, and one in
    a hundred bases is replaced by a random one. A cut takes a quarter of a barcode at most.

    Parameters
    ----------
    barcode : bytes
        Nucleotides, any length.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    bytes
        The barcode that the model is shown.
    """
    if rng.random() < _WHOLE_SHARE:
        return barcode
    bases = np.frombuffer(barcode, dtype=np.uint8)
    end = len(bases) - rng.integers(min(MAX_CUT_END, len(bases) // 4) + 1)
    if rng.random() < 0.5:
        primer = _BASES[:0]
        start = rng.integers(min(MAX_CUT_START, len(bases) // 4) + 1)
    else:
        primer = rng.choice(_BASES, rng.integers(MAX_PRIMER + 1))
        start = 0
    kept = bases[start:end]
    mutated = np.where(rng.random(len(kept)) < _MUTATION_RATE, rng.choice(_BASES, len(kept)), kept)
    return primer.tobytes() + mutated.tobytes()
