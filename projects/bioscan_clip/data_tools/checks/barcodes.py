"""Whether barcodes are nucleotide sequences of a plausible length."""

from typing import Final

import h5py
import numpy as np

from projects.bioscan_clip.data_tools.checks.columns import (
    Block,
    BoolArray,
    rows_with_problems,
)
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem
from projects.bioscan_clip.datasets.schema import BARCODE

ALPHABET: Final = b"ACGTNRYSWKMBDHV-"
"""Bases, any base (N), the other IUPAC codes, and the gap of an alignment."""

_SHORT = 200

_EMPTY = Problem(
    "barcodes", "error", "the barcode is empty", "drop these specimens or find their barcodes"
)
_FOREIGN = Problem(
    "barcodes",
    "error",
    "the barcode holds characters that are neither bases nor IUPAC codes nor gaps",
    "look at these barcodes in the metadata; drop or mend them",
)
_LOWER_CASE = Problem(
    "barcodes",
    "warning",
    "the barcode has lower-case bases, which the tokenizer reads as unknown",
    "write barcodes in capitals",
)
_TOO_SHORT = Problem(
    "barcodes",
    "warning",
    f"the barcode has fewer than {_SHORT} bases, where 658 are usual",
    "consider to drop these specimens: so few bases say little about the species",
)

_UNKNOWN, _PLAIN, _LOWER = 0, 1, 2
_CLASSES = np.zeros(256, dtype=np.uint8)
_CLASSES[list(ALPHABET)] = _PLAIN
_CLASSES[list(ALPHABET[:-1].lower())] = _LOWER


def check_barcodes(split: str, columns: dict[str, h5py.Dataset]) -> list[Finding]:
    """Check the column `barcode` of a split."""
    rows = rows_with_problems({BARCODE: columns[BARCODE]}, _inspect)
    return [finding for problem in rows for finding in problem.at(split, rows[problem])]


def _inspect(block: Block) -> dict[Problem, BoolArray]:
    barcodes = block[BARCODE]
    lengths = np.char.str_len(barcodes)
    width = max(barcodes.dtype.itemsize, 1)
    classes = _CLASSES[barcodes.astype(f"S{width}").view(np.uint8).reshape(len(barcodes), width)]
    classes[np.arange(width) >= lengths[:, None]] = _PLAIN  # the padding
    return {
        _EMPTY: lengths == 0,
        _FOREIGN: (classes == _UNKNOWN).any(axis=1),
        _LOWER_CASE: (classes == _LOWER).any(axis=1),
        _TOO_SHORT: (lengths > 0) & (lengths < _SHORT),
    }
