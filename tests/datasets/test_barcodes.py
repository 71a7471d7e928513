import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.barcodes import (
    AUGMENTATIONS,
    CORRUPTIONS,
    MAX_CUT_END,
    MAX_CUT_START,
    MAX_PRIMER,
    RUN,
    Damage,
    augment_barcode,
    damage_barcode,
)
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

BARCODES = st.text(alphabet="ACGTN-", max_size=700).map(str.encode)
SEEDS = st.integers(0, 2**32)
KINDS = st.sampled_from(sorted(AUGMENTATIONS))
RNG = np.random.default_rng(0)
BARCODE = RNG.choice(np.frombuffer(b"ACGT", dtype=np.uint8), 658).tobytes()


def shift_of(augmented: bytes) -> int:
    """Where the barcode's first base is: negative where bases are cut off, by brute force."""

    def matches(shift: int) -> int:
        start, begin = max(shift, 0), max(-shift, 0)
        return sum(a == b for a, b in zip(augmented[start:], BARCODE[begin:], strict=False))

    return max(range(-MAX_CUT_START, MAX_PRIMER + 1), key=matches)


def bases_of(barcode: bytes) -> np.ndarray:
    return np.frombuffer(barcode, dtype=np.uint8)


@given(BARCODES, SEEDS, KINDS)
def test_lengths_stay_within_bounds(barcode, seed, kind):
    augmented = augment_barcode(barcode, np.random.default_rng(seed), AUGMENTATIONS[kind])
    assert len(augmented) <= len(barcode) + MAX_PRIMER
    assert len(augmented) >= len(barcode) - min(MAX_CUT_START + MAX_CUT_END, len(barcode) // 2)


@given(BARCODES, SEEDS, st.sampled_from(sorted(CORRUPTIONS)))
def test_a_seed_gives_the_same_barcode(barcode, seed, name):
    first, second = (
        damage_barcode(barcode, np.random.default_rng(seed), CORRUPTIONS[name]) for _ in "ab"
    )
    assert first == second


@given(st.text(alphabet="N", max_size=700).map(str.encode), SEEDS, KINDS)
def test_new_bases_are_nucleotides(barcode, seed, kind):
    augmented = augment_barcode(barcode, np.random.default_rng(seed), AUGMENTATIONS[kind])
    assert set(augmented) <= set(b"ACGTN")


@pytest.mark.parametrize("name", ["bases_1", "bases_5", "bases_10"])
@pytest.mark.parametrize("seed", range(5))
def test_exactly_so_many_bases_are_others(name, seed):
    damaged = damage_barcode(BARCODE, np.random.default_rng(seed), CORRUPTIONS[name])
    assert len(damaged) == len(BARCODE)
    assert set(damaged) <= set(b"ACGT")
    differing = (bases_of(damaged) != bases_of(BARCODE)).sum()
    assert differing == round(CORRUPTIONS[name].substituted * len(BARCODE))


def test_runs_of_n():
    shares = []
    for seed in range(100):
        damaged = damage_barcode(BARCODE, np.random.default_rng(seed), CORRUPTIONS["n_runs"])
        lost = bases_of(damaged) == ord("N")
        np.testing.assert_array_equal(bases_of(damaged)[~lost], bases_of(BARCODE)[~lost])
        runs = np.diff(np.flatnonzero(np.diff(np.pad(lost, 1).astype(int))))[::2]
        assert runs.min() >= RUN
        shares.append(lost.mean())
    assert 0.15 < np.mean(shares) < 0.2  # some overlap
    assert max(shares) <= 7 * RUN / len(BARCODE)


def test_a_placed_barcode_keeps_its_frame_without_its_ends():
    starts, ends = [], []
    for seed in range(200):
        damaged = damage_barcode(BARCODE, np.random.default_rng(seed), CORRUPTIONS["cut_ends"])
        start = len(damaged) - len(damaged.lstrip(b"N"))
        assert damaged == b"N" * start + BARCODE[start : len(damaged)]
        starts.append(start)
        ends.append(len(BARCODE) - len(damaged))
    assert {min(starts), min(ends)} == {0}
    assert max(starts) == MAX_CUT_START
    assert MAX_CUT_END // 4 * 3 < max(ends) <= len(BARCODE) // 4


def test_shifted_barcodes_are_read_in_every_frame():
    shifts = []
    for seed in range(60):
        damaged = damage_barcode(BARCODE, np.random.default_rng(seed), CORRUPTIONS["shifted"])
        shifts.append(shift_of(damaged))
        assert damaged.endswith(BARCODE[max(-shifts[-1], 0) :])
    assert set(np.array(shifts) % 5) == set(range(5))
    assert 0.3 < (np.array(shifts) > 0).mean() < 0.7


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_half_stay_whole_and_others_lose_up_to_the_most(kind):
    rng, most = np.random.default_rng(1), AUGMENTATIONS[kind]
    augmented = [augment_barcode(BARCODE, rng, most) for _ in range(600)]
    changed = [one for one in augmented if one != BARCODE]
    assert 0.42 < len(changed) / len(augmented) < 0.58
    shifts = np.array([shift_of(one) if most.shifts else 0 for one in changed])
    if most.shifts:
        assert shifts.min() < -MAX_CUT_START + 10
        assert shifts.max() > MAX_PRIMER - 5
    mutations = []
    for one, shift in zip(changed, shifts, strict=True):
        start, begin = max(shift, 0), max(-shift, 0)
        pairs = list(zip(one[start:], BARCODE[begin:], strict=False))
        mutations.append(np.mean([a not in (b, ord("N")) for a, b in pairs]))
    assert 0.4 < np.mean(mutations) / most.substituted <= 0.55
    assert max(mutations) > 0.8 * most.substituted


def test_what_is_no_base_is_not_read_as_another():
    damaged = damage_barcode(b"acgtN-" * 20, np.random.default_rng(0), Damage(substituted=1.0))
    assert damaged == b"acgtN-" * 20


def test_a_cut_changes_the_tokens_of_a_barcode():
    """Why this is needed: with the first base gone, hardly any 5-mer stays in its place."""
    tokenizer = KmerTokenizer()
    whole, cut = tokenizer([BARCODE, BARCODE[1:]])
    assert (whole[1:] == cut[1:]).float().mean() < 0.05
