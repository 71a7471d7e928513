"""Neighbours of all pairs equal those of a search for each pair on its own."""

import numpy as np
import pytest
import torch

from projects.bioscan_clip.scoring import Specimens, nearest_keys
from projects.bioscan_clip.scoring import neighbours as module
from projects.bioscan_clip.scoring.neighbours import Match, find_neighbours


def specimens(count: int, seed: int, **dimensions: int) -> Specimens:
    generator = torch.Generator().manual_seed(seed)
    features = {
        name: (1 + position) * torch.randn((count, width), generator=generator)
        for position, (name, width) in enumerate(dimensions.items())
    }
    return Specimens(labels=torch.zeros((count, 4), dtype=torch.int64), **features)


def features(embeddings: Specimens) -> dict[str, np.ndarray]:
    """All features, made as CLIBD defines them."""
    values = {name: block.double().numpy() for name, block in embeddings.modalities.items()}
    if {"rgb", "dna"} <= set(values):
        if values["rgb"].shape == values["dna"].shape:
            values["averaged"] = (values["rgb"] + values["dna"]) / 2
        values["concatenated"] = np.hstack([values["rgb"], values["dna"]])
    return values


def nearest(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, keys)]
    cosine = unit[0] @ unit[1].T
    order = np.argsort(-cosine, axis=1)[:, :k]
    return np.take_along_axis(cosine, order, axis=1), order


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "KEYS_AT_ONCE", 7)
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 5)


def test_every_pair_equals_its_own_search():
    keys = specimens(30, 0, rgb=8, dna=8, text=8)
    queries = {
        name: specimens(count, count, rgb=8, dna=8, text=8)
        for name, count in (("seen", 11), ("unseen", 4))
    }
    found = find_neighbours(keys, queries, k=3)
    names = ["rgb", "dna", "text", "averaged"]
    pairs = {(query, key) for query in names for key in [*names, "all"]}
    assert {(match.query, match.key) for match in found} == pairs | {("concatenated",) * 2}
    key_features = features(keys)
    for match, near in found.items():
        query_values = features(queries[match.split])[match.query]
        if match.key == "all":
            key_values = np.vstack([key_features[name] for name in ("rgb", "dna", "text")])
        else:
            key_values = key_features[match.key]
        cosine, rows = nearest(query_values, key_values, 3)
        np.testing.assert_array_equal(near.keys, rows % len(keys))
        np.testing.assert_allclose(near.similarities, cosine, atol=1e-6)


def test_unequal_dimensions_are_left_out():
    parts = {"rgb": 8, "dna": 8, "text": 6}
    keys, queries = specimens(9, 0, **parts), {"seen": specimens(3, 1, **parts)}
    found = find_neighbours(keys, queries, k=2)
    assert Match("rgb", "text", "seen") not in found
    assert Match("text", "text", "seen") in found
    assert not any(match.key == "all" for match in found)
    apart = {"seen": specimens(3, 1, rgb=8, dna=6)}
    assert set(find_neighbours(specimens(9, 0, rgb=8, dna=6), apart, k=2)) == {
        Match(name, name, "seen") for name in ("rgb", "dna", "concatenated")
    }


def test_half_precision_and_an_empty_split():
    keys = specimens(30, 0, rgb=8, dna=8)
    half = Specimens(keys.labels, rgb=keys.rgb.half(), dna=keys.dna.half())
    queries = {"seen": specimens(6, 1, rgb=8, dna=8), "unseen": specimens(0, 1, rgb=8, dna=8)}
    found = find_neighbours(half, queries, k=40)
    assert {match.split for match in found} == {"seen"}
    near = found[Match("rgb", "dna", "seen")]
    assert near.keys.sort(dim=1).values.equal(torch.arange(30).expand(6, 30))
    assert near.similarities.dtype == torch.float32


def test_nearest_keys_equal_a_full_sort(monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 7)  # several blocks, the last one short
    monkeypatch.setattr(module, "KEYS_AT_ONCE", 3)  # fewer than neighbours
    torch.manual_seed(0)
    queries, keys = 5 * torch.randn(40, 6), 3 * torch.randn(25, 6)
    similarities, indices = nearest_keys(queries, keys, k=4)
    cosine = torch.cosine_similarity(queries[:, None], keys[None], dim=2)
    expected = cosine.sort(dim=1, descending=True)
    assert indices.equal(expected.indices[:, :4])
    torch.testing.assert_close(similarities, expected.values[:, :4])
