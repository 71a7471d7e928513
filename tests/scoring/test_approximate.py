"""An inverted file finds most of what an exact search finds, and says how much."""

from dataclasses import replace

import pytest
import torch

from projects.bioscan_clip.scoring import Specimens
from projects.bioscan_clip.scoring import approximate as module
from projects.bioscan_clip.scoring.approximate import (
    find_neighbours_approximately,
    nearest_keys_approximately,
    recall,
)
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.scoring.neighbours import find_neighbours


def specimens(count: int, seed: int) -> Specimens:
    generator = torch.Generator().manual_seed(seed)
    species = torch.randint(80, (count,), generator=generator)
    centres = torch.randn((80, 16), generator=torch.Generator().manual_seed(9))
    parts = {
        name: centres[species] + 0.7 * torch.randn((count, 16), generator=generator)
        for name in ("rgb", "dna", "text")
    }
    return Specimens(labels=species[:, None].expand(count, 4).clone(), **parts)


def test_finds_most_neighbours_and_its_recall_is_true():
    keys, queries = specimens(1200, 0), {"seen": specimens(200, 1), "unseen": specimens(0, 2)}
    exact = find_neighbours(keys, queries, k=5)
    approximate = find_neighbours_approximately(keys, queries, k=5)
    assert set(approximate) == set(exact)
    shares = []
    for match, near in exact.items():
        rows = zip(near.keys.tolist(), approximate[match].keys.tolist(), strict=True)
        hits = [sum(key in found for key in true) / 5 for true, found in rows]
        shares.append(sum(hits) / len(hits))
    expected = sum(shares) / len(shares)
    assert 0.5 < expected < 1
    assert recall(keys, queries, approximate, k=5) == pytest.approx(expected)


def test_few_keys_are_all_found():
    keys, queries = specimens(30, 0), {"seen": specimens(6, 1)}
    approximate = find_neighbours_approximately(keys, queries, k=40)
    for match, near in approximate.items():
        found = near.keys.sort(dim=1).values
        if match.key != "all":
            assert found.equal(torch.arange(30).expand(6, 30))


def test_lists_with_too_few_keys_are_made_up_for():
    keys, queries = specimens(1200, 0), {"seen": specimens(20, 1)}
    for near in find_neighbours_approximately(keys, queries, k=300).values():
        assert (near.keys >= 0).all()


def test_one_feature_is_searched_alike():
    keys, queries = specimens(1200, 0), specimens(200, 1)
    expected = find_neighbours_approximately(keys, {"seen": queries}, k=3)["rgb", "dna", "seen"]
    similarities, rows = nearest_keys_approximately(queries.rgb, keys.dna, k=3)
    assert similarities.equal(expected.similarities)
    assert rows.equal(expected.keys)


def test_approximate_search_reaches_the_methods_that_tell_seen_from_unseen(monkeypatch):
    searched = []

    def watch(queries, keys, k):
        searched.append((len(queries), len(keys), k))
        return nearest_keys_approximately(queries, keys, k)

    monkeypatch.setattr(module, "nearest_keys_approximately", watch)
    keys = replace(specimens(400, 0), is_seen=torch.arange(400) < 300)
    queries = {"seen": specimens(30, 1), "unseen": specimens(20, 2)}
    tuning = {"tuning_seen": specimens(25, 3), "tuning_unseen": specimens(15, 4)}
    sets = {"keys": keys, **queries, **tuning}
    found = evaluate(sets, search="approximate", linear_head=False)
    assert "is_du" in set(found.metrics["key"])
    assert sorted(searched) == [(40, 100, 1), (40, 300, 1), (50, 100, 1), (50, 300, 1)]
