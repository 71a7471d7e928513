"""Expected accuracies come from the reference (fixtures/parity) and from scikit-learn."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors

from projects.bioscan_clip.scoring import Specimens, evaluate_embeddings
from projects.bioscan_clip.scoring.accuracy import class_accuracy, correct_at, harmonic_mean

RANKS = ("order", "family", "genus", "species")


def label_vectors(species: np.ndarray) -> np.ndarray:
    """Labels by the rule of accuracy.json; each rank has its own codes."""
    return np.stack([100 + species // 20, 200 + species // 8, 300 + species // 3, species], axis=1)


def parity_set(arrays: np.lib.npyio.NpzFile, name: str) -> dict:
    features = {modality: arrays[f"{name}_{modality}"] for modality in ("rgb", "dna", "text")}
    return features | {"labels": label_vectors(arrays[f"{name}_species"])}


@pytest.fixture(scope="module")
def parity_arrays(parity):
    return np.load(parity / "embeddings.npz")


@pytest.fixture(scope="module")
def parity_results(parity_arrays):
    queries = {split: parity_set(parity_arrays, split) for split in ("seen", "unseen")}
    return evaluate_embeddings(parity_set(parity_arrays, "keys"), queries, top_k=(1, 3, 5))


def test_equals_reference(parity, parity_results):
    reference = json.loads((parity / "accuracy.json").read_text())["accuracy"]
    assert len(reference) == 42
    for pair, by_average in reference.items():
        query, rest = pair.split("->")
        for average, by_k in by_average.items():
            for k, by_rank in by_k.items():
                for rank, expected in by_rank.items():
                    key, split = rest.split("/")
                    name = f"{query}_to_{key}/{split}/{average}/top{k}/{rank}"
                    assert parity_results[name] == pytest.approx(expected, abs=1e-9), name


def test_equals_scikit_learn(parity_arrays, parity_results):
    keys, queries = (parity_set(parity_arrays, name) for name in ("keys", "unseen"))
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(keys["dna"])
    nearest = search.kneighbors(queries["rgb"], return_distance=False)[:, 0]
    for position, rank in enumerate(RANKS):
        truth, predicted = queries["labels"][:, position], keys["labels"][nearest, position]
        micro = parity_results[f"rgb_to_dna/unseen/micro/top1/{rank}"]
        macro = parity_results[f"rgb_to_dna/unseen/macro/top1/{rank}"]
        assert micro == pytest.approx(accuracy_score(truth, predicted))
        with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
            expected = balanced_accuracy_score(truth, predicted)
        assert macro == pytest.approx(expected)


def test_harmonic_mean_of_seen_and_unseen(parity_results):
    name = "dna_to_rgb/{}/macro/top3/genus"
    seen, unseen = (parity_results[name.format(split)] for split in ("seen", "unseen"))
    expected = 2 / (1 / seen + 1 / unseen)
    assert parity_results[name.format("harmonic")] == pytest.approx(expected)
    assert harmonic_mean(np.zeros(1), np.zeros(1)).tolist() == [0.0]


def unit(*angles_in_degrees: float) -> torch.Tensor:
    radians = torch.tensor(angles_in_degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_unknown_labels():
    """An unlabelled key is never right, and an unlabelled query does not count."""
    keys = {"dna": unit(0, 10), "labels": torch.tensor([[1, 1, -1, -1], [1, 2, 3, 4]])}
    queries = {"dna": unit(1, 2), "labels": torch.tensor([[1, 1, -1, -1], [1, 2, 3, -1]])}
    results = evaluate_embeddings(keys, {"seen": queries}, top_k=(1, 2))
    name = "dna_to_dna/seen/micro/top{}/{}"
    assert results[name.format(1, "order")] == 1
    assert results[name.format(1, "family")] == 0.5
    assert results[name.format(1, "genus")] == 0  # its nearest key has no genus
    assert results[name.format(2, "genus")] == 1
    assert not any("species" in key for key in results)


def test_missing_modalities_leave_out_their_pairs():
    keys = Specimens(torch.zeros(2, 4, dtype=torch.int64), dna=unit(0, 10))
    results = evaluate_embeddings(keys, {"seen": keys}, top_k=(1,))
    assert {name.split("/")[0] for name in results} == {"dna_to_dna", "dna_to_all"}
    assert {name.split("/")[1] for name in results} == {"seen"}


def test_splits_may_have_any_name():
    keys = {"dna": unit(0, 90), "labels": torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2]])}
    results = evaluate_embeddings(keys, {"mine": keys}, top_k=(1,))
    assert results["dna_to_dna/mine/macro/top1/genus"] == 1


def test_more_neighbours_than_keys():
    keys = {"dna": unit(0, 90), "labels": torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2]])}
    results = evaluate_embeddings(keys, {"seen": keys}, top_k=(1, 5))
    assert results["dna_to_dna/seen/micro/top5/species"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(2, 3)}, "`labels` must have shape"),
        ({"dna": torch.zeros(3, 2)}, "`dna` must have shape"),
        ({"dna": torch.tensor([[0.0, float("nan")], [1, 1]])}, "1 of 2 `dna` embeddings hold NaN"),
    ],
)
def test_bad_embeddings_are_named(change, message):
    values = {"dna": unit(0, 10), "labels": torch.zeros(2, 4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        evaluate_embeddings(values | change, {}, top_k=(1,))


def test_no_keys_and_no_k_are_refused():
    nothing = {"labels": torch.zeros(0, 4, dtype=torch.int64)}
    with pytest.raises(ValueError, match="no keys"):
        evaluate_embeddings(nothing, {})
    with pytest.raises(ValueError, match="top_k"):
        evaluate_embeddings(nothing, {}, top_k=(0,))


@settings(max_examples=50)
@given(
    neighbours=st.lists(
        st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=9
    ),
    data=st.data(),
)
def test_accuracies_equal_loops(neighbours, data):
    truth = data.draw(
        st.lists(st.integers(0, 3), min_size=len(neighbours), max_size=len(neighbours))
    )
    correct = correct_at(torch.tensor(neighbours), torch.tensor(truth))
    by_label = class_accuracy(correct.double().numpy(), np.array(truth))
    for k in range(1, 5):
        hits = [label in row[:k] for row, label in zip(neighbours, truth, strict=True)]
        assert correct[:, k - 1].tolist() == hits
        for shares, taxon in zip(by_label, sorted(set(truth)), strict=True):
            group = [hit for hit, label in zip(hits, truth, strict=True) if label == taxon]
            assert shares[k - 1] == pytest.approx(sum(group) / len(group))
