import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.sampler import WindowedSampler

ROWS = st.integers(1, 60)


def order(rows: int, epoch: int = 0, **options) -> list[int]:
    sampler = WindowedSampler(range(rows), **options)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(ROWS, st.integers(1, 80), st.integers(0, 5))
def test_every_row_once(rows, window, epoch):
    assert sorted(order(rows, epoch, window=window)) == list(range(rows))


@given(ROWS, st.integers(1, 20), st.integers(1, 4))
def test_processes_share_the_rows_and_the_windows(rows, window, processes):
    parts = [
        order(rows, window=window, num_replicas=processes, rank=rank) for rank in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    interleaved = np.array(parts).T.ravel().tolist()
    alone = order(rows, window=window)
    assert interleaved[:rows] == alone
    assert set(interleaved[rows:]) <= set(alone)  # repeated to divide evenly


def test_rows_of_a_window_follow_each_other():
    positions = np.array(order(1000, window=50))
    spans = [np.ptp(positions[start : start + 50]) for start in range(0, 1000, 50)]
    # A stretch of 50 lies in at most three windows, of which all but the cut one are whole.
    cuts = np.flatnonzero(np.abs(np.diff(positions)) >= 50)
    assert len(cuts) <= 21
    assert np.median(np.abs(np.diff(positions))) < 50
    assert max(spans) > 50  # windows themselves are not in order


def test_windows_differ_from_epoch_to_epoch_and_agree_between_calls():
    assert order(100, 0, window=10) != order(100, 1, window=10)
    assert order(100, 3, window=10) == order(100, 3, window=10)
    assert order(100, 0, window=10, seed=1) != order(100, 0, window=10, seed=2)
    bounds = [set(order(100, epoch, window=10)[10:20]) for epoch in range(8)]
    assert len({min(bound) % 10 for bound in bounds}) > 1


def test_window_must_be_positive():
    with pytest.raises(ValueError, match="`window` must be at least 1 row, but is 0"):
        WindowedSampler(range(5), window=0)
