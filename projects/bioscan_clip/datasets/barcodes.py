"""Damage to barcodes: in training, so that a model reads damaged ones too, and in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

MAX_CUT_START: Final = 60
MAX_CUT_END: Final = 200
MAX_PRIMER: Final = 30
"""Bases that are cut off or put in front: a k-mer is then read in any frame."""


@dataclass(frozen=True)
class Damage:
    """What happens to a barcode.

    Attributes
    ----------
    substituted : float
        Share of bases that are read as another one.
    unknown : float
        Share of bases that are lost to runs of N, each of :data:`RUN` bases.
    cut_start, cut_end : int
        Bases that are missing at either end, at most; a quarter of the barcode at most.
    primer : int
        Bases that are in front of every other barcode, at most; that one misses none at its start.
    shifts : bool
        Whether bases that miss at the start leave nothing, so that all others move up, and not N,
        as placing a barcode on the region's coordinates leaves.
    """

    substituted: float = 0.0
    unknown: float = 0.0
    cut_start: int = 0
    cut_end: int = 0
    primer: int = 0
    shifts: bool = False


RUN: Final = 20

CORRUPTIONS: Final[Mapping[str, Damage]] = {
    "bases_1": Damage(substituted=0.01),
    "bases_5": Damage(substituted=0.05),
    "bases_10": Damage(substituted=0.1),
    "n_runs": Damage(unknown=0.2),
    "cut_ends": Damage(cut_start=MAX_CUT_START, cut_end=MAX_CUT_END),
    "shifted": Damage(cut_start=MAX_CUT_START, primer=MAX_PRIMER, shifts=True),
}
"""What evaluations do to barcodes, by name."""

AUGMENTATIONS: Final[Mapping[str, Damage]] = {
    "placed": Damage(0.1, 0.2, MAX_CUT_START, MAX_CUT_END),
    "shifted": Damage(0.015, 0.0, MAX_CUT_START, MAX_CUT_END, MAX_PRIMER, shifts=True),
}
"""The most that training does to barcodes: to those that are placed on the region's coordinates
before they are read, or also to those that are not."""

_WHOLE_SHARE = 0.5
_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_OTHERS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
"""The other bases than a base; what is none has only itself."""
_OTHERS[_BASES] = [_BASES[base != _BASES] for base in _BASES]


def augment_barcode(barcode: bytes, rng: np.random.Generator, most: Damage) -> bytes:
    """Damage every other barcode, up to `most`: each share is drawn from 0 on.

    Parameters
    ----------
    barcode : bytes
        Nucleotides, any length.
    rng : numpy.random.Generator
        Source of chance.
    most : Damage
        One of :data:`AUGMENTATIONS`.

    Returns
    -------
    bytes
        The barcode that the model is shown.
    """
    if rng.random() < _WHOLE_SHARE:
        return barcode
    substituted, unknown = rng.uniform(0, [most.substituted, most.unknown]).tolist()
    ends = (most.cut_start, most.cut_end, most.primer, most.shifts)
    return damage_barcode(barcode, rng, Damage(substituted, unknown, *ends))


def damage_barcode(barcode: bytes, rng: np.random.Generator, damage: Damage) -> bytes:
    """Damage a barcode; the arguments are those of :func:`augment_barcode`.

    Shares are met as closely as whole bases and runs allow, which may overlap; how many bases miss
    at an end is drawn.
    """
    bases = np.frombuffer(barcode, dtype=np.uint8).copy()
    length = len(bases)
    changed = rng.permutation(length)[: round(damage.substituted * length)]
    bases[changed] = _OTHERS[bases[changed], rng.integers(3, size=len(changed))]
    for start in rng.integers(max(length - RUN, 0) + 1, size=round(damage.unknown * length / RUN)):
        bases[start : start + RUN] = ord("N")
    end = length - rng.integers(min(damage.cut_end, length // 4) + 1)
    if damage.primer and rng.random() < 0.5:
        primer = rng.choice(_BASES, rng.integers(damage.primer + 1))
        return primer.tobytes() + bases[:end].tobytes()
    start = rng.integers(min(damage.cut_start, length // 4) + 1)
    front = b"" if damage.shifts else b"N" * int(start)
    return front + bases[start:end].tobytes()
