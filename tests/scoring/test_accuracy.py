"""Confidence intervals equal Wilson's formula, and nearly those of resampling one at a time."""

import numpy as np
import pytest
import torch

from projects.bioscan_clip.scoring import Specimens
from projects.bioscan_clip.scoring.accuracy import distances, mistake_table
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.scoring.neighbours import Match, Neighbours


def specimens(count: int, seed: int, noise: float) -> Specimens:
    rng = np.random.default_rng(seed)
    species = rng.integers(0, 12, count)
    labels = np.stack([species // 6, 10 + species // 4, 20 + species // 2, 40 + species], axis=1)
    centres = np.random.default_rng(99).normal(size=(12, 6))
    photo = centres[species] + noise * rng.normal(size=(count, 6))
    return Specimens(torch.from_numpy(labels), rgb=torch.from_numpy(photo))


@pytest.fixture(scope="module")
def evaluation():
    queries = {"seen": specimens(90, 1, 0.8), "unseen": specimens(60, 2, 1.2)}
    return evaluate({"keys": specimens(100, 0, 0.8), **queries}, top_k=(1, 3))


def rows(evaluation, **chosen):
    table = evaluation.metrics
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


def right(evaluation, split):
    near = evaluation.neighbours["rgb", "rgb", split].keys[:, 0]
    truth = evaluation.queries[split].labels[:, 3].numpy()
    return (evaluation.keys.labels[near, 3].numpy() == truth).astype(float), truth


def macro(correct, labels):
    return np.mean([correct[labels == taxon].mean() for taxon in np.unique(labels)])


def wilson(share, n, z=1.959964):
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return [centre - half, centre + half]


def test_micro_intervals_are_wilsons(evaluation):
    for split in ("seen", "unseen"):
        correct, _ = right(evaluation, split)
        row = rows(evaluation, key="rgb", split=split, average="micro", k=1, level="species")
        expected = wilson(correct.mean(), len(correct))
        np.testing.assert_allclose(row[["low", "high"]].iloc[0], expected, atol=1e-6)


def test_none_right_does_not_mean_never_right():
    """As of 164 unseen queries: the interval of resampling them would be [0, 0]."""
    keys = specimens(40, 0, 0.5)
    lost = specimens(164, 1, 0.5)
    lost.labels[:, 3] = 7
    found = evaluate({"keys": keys, "seen": specimens(50, 2, 0.5), "unseen": lost})
    table = rows(found, key="rgb", k=1, level="species", average="micro").set_index("split")
    value, low, high = table.loc["unseen", ["value", "low", "high"]]
    assert (value, low) == (0, 0)
    assert high == pytest.approx(wilson(0, 164)[1], abs=1e-6) == pytest.approx(0.0229, abs=1e-4)
    value, low, high = table.loc["harmonic", ["value", "low", "high"]]
    assert (value, low) == (0, 0)
    assert 0.02 < high < 0.05  # about twice that of unseen, as most seen ones are right


def test_other_intervals_are_near_those_of_resampling(evaluation):
    rng = np.random.default_rng(7)
    means, class_means = {}, {}
    for split in ("seen", "unseen"):
        correct, labels = right(evaluation, split)
        drawn = rng.integers(0, len(correct), (4000, len(correct)))
        means[split] = correct[drawn].mean(axis=1)
        shares = np.array([correct[labels == taxon].mean() for taxon in np.unique(labels)])
        drawn = rng.integers(0, len(shares), (4000, len(shares)))
        class_means[split] = shares[drawn].mean(axis=1)
    for average, draws in (("micro", means), ("macro", class_means)):
        draws["harmonic"] = 2 / (1 / draws["seen"] + 1 / draws["unseen"])
        for split, values in draws.items():
            row = rows(evaluation, key="rgb", split=split, average=average, k=1, level="species")
            expected = np.percentile(values, [2.5, 97.5])
            np.testing.assert_allclose(row[["low", "high"]].iloc[0], expected, atol=0.03)


def test_values_and_counts(evaluation):
    for split in ("seen", "unseen"):
        correct, labels = right(evaluation, split)
        chosen = {"key": "rgb", "split": split, "k": 1, "level": "species"}
        micro_row = rows(evaluation, average="micro", **chosen).iloc[0]
        macro_row = rows(evaluation, average="macro", **chosen).iloc[0]
        assert (micro_row["value"], micro_row["n"]) == (pytest.approx(correct.mean()), len(labels))
        assert macro_row["value"] == pytest.approx(macro(correct, labels))
        assert macro_row["n"] == 12
    mistakes = evaluation.metrics["average"] == "mistake"  # these have no interval
    assert evaluation.metrics.loc[mistakes, ["low", "high"]].isna().all(axis=None)
    table = evaluation.metrics[~mistakes]
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_intervals_are_seeded(evaluation):
    again = evaluate(evaluation.sets, top_k=(1, 3))
    assert again.metrics.equals(evaluation.metrics)


def test_all_labels_unknown_at_a_rank():
    keys, queries = specimens(20, 0, 0.5), specimens(5, 1, 0.5)
    queries.labels[:, 3] = -1
    levels = set(evaluate({"keys": keys, "seen": queries}).metrics["level"])
    assert levels == {"order", "family", "genus"}
    queries.labels[:] = -1
    assert evaluate({"keys": keys, "seen": queries}).numbers() == {}


TRUTH = torch.tensor([[1, 2, 3, 4]] * 6 + [[1, 2, 3, -1]])
NEAREST = torch.tensor(
    [[1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 9, 9], [1, 9, 9, 9], [9] * 4, [1, 2, -1, -1], [1, 2, 3, -1]]
)


def test_lowest_shared_rank():
    assert distances(NEAREST, TRUTH).tolist() == [0, 1, 2, 3, 4, 2, 1]


def test_shares_and_mean_over_queries_of_known_species():
    match = Match("rgb", "dna", "seen")
    near = Neighbours(torch.ones(7, 1), torch.arange(7)[:, None])
    table = mistake_table(Specimens(NEAREST), {"seen": Specimens(TRUTH)}, {match: near})
    found = dict(zip(table["level"], table["value"], strict=True))
    expected = {"species": 1 / 6, "genus": 1 / 6, "family": 2 / 6, "order": 1 / 6, "none": 1 / 6}
    assert {level: round(found[level], 6) for level in expected} == {
        level: round(share, 6) for level, share in expected.items()
    }
    assert found["mean"] == (0 + 1 + 2 + 3 + 4 + 2) / 6
    assert set(table["n"]) == {6}


def test_no_query_of_known_species():
    queries = {"seen": Specimens(TRUTH[-1:])}
    near = Neighbours(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64))
    assert mistake_table(Specimens(NEAREST), queries, {Match("rgb", "dna", "seen"): near}).empty
