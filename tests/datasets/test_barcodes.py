import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.barcodes import (
    MAX_CUT_END,
    MAX_CUT_START,
    MAX_PRIMER,
    augment_barcode,
)
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

BARCODES = st.text(alphabet="ACGTN-", max_size=700).map(str.encode)
SEEDS = st.integers(0, 2**32)
RNG = np.random.default_rng(0)
BARCODE = RNG.choice(np.frombuffer(b"ACGT", dtype=np.uint8), 658).tobytes()


def shift_of(augmented: bytes) -> int:
    """Where the barcode's first base is: negative where bases are cut off, by brute force."""

    def matches(shift: int) -> int:
        start, begin = max(shift, 0), max(-shift, 0)
        return sum(a == b for a, b in zip(augmented[start:], BARCODE[begin:], strict=False))

    return max(range(-MAX_CUT_START, MAX_PRIMER + 1), key=matches)


@given(BARCODES, SEEDS)
def test_lengths_stay_within_bounds(barcode, seed):
    augmented = augment_barcode(barcode, np.random.default_rng(seed))
    assert len(augmented) <= len(barcode) + MAX_PRIMER
    assert len(augmented) >= len(barcode) - min(MAX_CUT_START + MAX_CUT_END, len(barcode) // 2)


@given(BARCODES, SEEDS)
def test_a_seed_gives_the_same_barcode(barcode, seed):
    first, second = (augment_barcode(barcode, np.random.default_rng(seed)) for _ in "ab")
    assert first == second


@given(st.text(alphabet="N", max_size=700).map(str.encode), SEEDS)
def test_new_bases_are_nucleotides(barcode, seed):
    assert set(augment_barcode(barcode, np.random.default_rng(seed))) <= set(b"ACGTN")


def test_half_stay_whole_and_others_are_cut_shifted_and_mutated():
    rng = np.random.default_rng(1)
    augmented = [augment_barcode(BARCODE, rng) for _ in range(600)]
    changed = [one for one in augmented if one != BARCODE]
    assert 0.42 < len(changed) / len(augmented) < 0.58
    shifts = np.array([shift_of(one) for one in changed])
    assert shifts.min() < -MAX_CUT_START + 10
    assert shifts.max() > MAX_PRIMER - 5
    assert set(shifts % 5) == set(range(5))  # every frame of 5-mers
    assert 0.4 < (shifts > 0).mean() < 0.6
    ends = len(BARCODE) + shifts - np.array([len(one) for one in changed])
    assert ends.min() >= 0
    assert MAX_CUT_END // 4 * 3 < ends.max() <= len(BARCODE) // 4
    mutations = []
    for one, shift in zip(changed, shifts, strict=True):
        start, begin = max(shift, 0), max(-shift, 0)
        pairs = list(zip(one[start:], BARCODE[begin:], strict=False))
        mutations.append(np.mean([a != b for a, b in pairs]))
    assert 0.005 < np.mean(mutations) < 0.01  # a random base is the old one in a quarter


def test_a_cut_changes_the_tokens_of_a_barcode():
    """Why this is needed: with the first base gone, hardly any 5-mer stays in its place."""
    tokenizer = KmerTokenizer()
    whole, cut = tokenizer([BARCODE, BARCODE[1:]])
    assert (whole[1:] == cut[1:]).float().mean() < 0.05
