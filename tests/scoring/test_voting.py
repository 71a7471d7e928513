from collections import defaultdict

import numpy as np
import pytest

from projects.bioscan_clip.scoring.voting import best_temperature, vote
from tests.scoring.world import lineage, world


def test_votes_equal_those_counted_one_by_one():
    rng = np.random.default_rng(0)
    scores, labels, _ = world(rng, queries=50)
    labels[rng.random(labels.shape[:2]) < 0.2, 3] = -1
    votes = vote(scores, labels, 0.1)
    for row in range(50):
        weights = np.exp(scores[row] / 0.1)
        weights /= weights.sum()
        above = ()
        for rank in range(4):
            counts = defaultdict(float)
            for weight, label in zip(weights, labels[row], strict=True):
                if tuple(label[:rank]) == above and label[rank] >= 0:
                    counts[label[rank]] += weight
            winner = max(counts, key=counts.get, default=-1)
            assert votes.labels[row, rank] == winner
            assert votes.shares[row, rank] == pytest.approx(counts[winner])
            above += (winner,)
    assert (np.diff(votes.shares, axis=1) <= 0).all()


def test_voters_without_any_name_elect_nobody():
    labels = np.array([[[1, -1, -1, -1], [1, -1, -1, -1]]])
    votes = vote(np.array([[0.9, 0.8]]), labels, 0.1)
    assert votes.labels.tolist() == [[1, -1, -1, -1]]
    assert votes.shares.tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_a_missing_neighbour_has_no_vote():
    labels = np.array([[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert vote(np.array([[0.1, -np.inf]]), labels, 0.1).shares.tolist() == [[1.0] * 4]


def test_the_best_temperature_is_small_where_only_the_nearest_is_right():
    labels = np.tile(lineage(np.array([1, 9, 17])), (100, 1, 1))
    scores = np.tile([0.9, 0.85, 0.8], (100, 1))
    assert best_temperature(scores, labels, labels[:, 0])[0] < 0.01
    mixed = labels[np.arange(100), np.arange(100) % 3]
    assert best_temperature(scores, labels, mixed)[0] > 0.1
