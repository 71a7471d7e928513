import json
from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from projects.bioscan_clip.scoring.calibration import (
    FEWEST,
    PRECISIONS,
    RISK,
    Answers,
    Calibration,
    _regression,
    acceptance,
    best_temperature,
    binomial_interval,
    choose_absent,
    coverage_curve,
    expected_calibration_error,
    fit,
    lowest_threshold,
    precision_step,
    reliability,
    vote,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def lineage(species):
    """Codes of four ranks, two children each, from species upwards."""
    species = np.asarray(species)
    return np.stack([species // 8 + 100, species // 4 + 200, species // 2 + 300, species], axis=-1)


def world(rng, queries=600, species=24, noise=0.05, absent=()):
    """Nearest keys of queries whose similarity falls with the distance in the tree."""
    truth = rng.integers(0, species, queries)
    keys = np.array([one for one in range(species) if one not in absent])
    apart = (lineage(truth)[:, None] != lineage(keys)[None]).sum(axis=2)
    similarity = 1 - 0.15 * apart + noise * rng.normal(size=apart.shape)
    near = np.argsort(-similarity, axis=1)[:, :10]
    labels = lineage(keys)[near]
    return np.take_along_axis(similarity, near, axis=1), labels, lineage(truth)


def test_votes_equal_those_counted_one_by_one(rng):
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


def test_the_best_temperature_is_small_where_only_the_nearest_is_right(rng):
    labels = np.tile(lineage(np.array([1, 9, 17])), (100, 1, 1))
    scores = np.tile([0.9, 0.85, 0.8], (100, 1))
    assert best_temperature(scores, labels, labels[:, 0])[0] < 0.01
    mixed = labels[np.arange(100), rng.integers(0, 3, 100)]
    assert best_temperature(scores, labels, mixed)[0] > 0.1


def test_regression_agrees_with_scikit_learn(rng):
    features = rng.normal(size=(300, 3)) * [1, 5, 0.1] + [0, 2, 1]
    right = rng.random(300) < 1 / (1 + np.exp(-features[:, 0] - 0.3 * features[:, 1]))
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    reference = LogisticRegression(C=1.0, tol=1e-8).fit(scaled, right)
    weights = _regression(features, right)
    expected = reference.predict_proba(scaled)[:, 1]
    ours = 1 / (1 + np.exp(-weights[0] - features @ weights[1:]))
    assert np.abs(ours - expected).max() < 1e-3


@pytest.mark.parametrize("precision", [0.8, 0.9])
def test_accepted_names_keep_the_target_with_the_stated_risk(rng, precision):
    """Where confidence is the true probability, so that precision above a threshold is known."""
    broken, useful = 0, 0
    for _ in range(400):
        confidence = rng.random(1000)
        threshold = lowest_threshold(confidence, rng.random(1000) < confidence, precision)
        # The mean of a uniform probability above the threshold.
        broken += threshold is not None and (1 + threshold) / 2 < precision
        useful += threshold is not None and threshold < (1 + precision) / 2
    assert broken / 400 <= RISK
    assert useful / 400 > 0.4


def test_without_errors_everything_is_accepted_and_without_evidence_nothing():
    assert lowest_threshold(np.full(100, 0.6), np.ones(100, dtype=bool), 0.9) == 0.0
    assert lowest_threshold(np.full(10, 0.6), np.ones(10, dtype=bool), 0.9) is None
    assert lowest_threshold(np.full(100, 0.6), np.zeros(100, dtype=bool), 0.9) is None


def test_calibrated_on_some_queries_holds_on_others(rng):
    """Also for species that no key has, which are named less than half as often."""
    absent = {1, 2, 8, 13, 19, 20}
    scores, labels, truth = world(rng, absent=absent)
    calibration = fit(scores, labels, truth, ~np.isin(truth[:, 3], list(absent)))
    scores, labels, truth = world(rng, queries=4000, absent=absent)
    is_absent = np.isin(truth[:, 3], list(absent))
    answers = calibration.answer(scores, labels)
    passes = calibration.accepts(answers, 0.9)
    table = acceptance(answers, passes, truth)
    assert (table["precision"].dropna() > 0.87).all()
    assert (table["coverage"] > 0).all()
    assert passes[is_absent, 3].mean() < 0.5 * (answers.labels[is_absent, 3] >= 0).mean()
    assert answers.in_keys[is_absent].mean() < answers.in_keys[~is_absent].mean() - 0.1
    for rank in range(4):
        right = answers.labels[:, rank] == truth[:, rank]
        assert expected_calibration_error(answers.confidence[:, rank], right) < 0.08
    assert (np.diff(answers.confidence, axis=1) <= 0).all()
    assert not (np.diff(passes.astype(int), axis=1) > 0).any()


def test_a_calibration_survives_json(rng):
    scores, labels, truth = world(rng, queries=200)
    calibration = fit(scores, labels, truth, np.ones(200, dtype=bool))
    again = Calibration(**json.loads(json.dumps(calibration.as_dict())))
    assert again == calibration
    assert (again.answer(scores, labels).confidence >= 0).all()


def test_too_few_labelled_queries_are_refused(rng):
    scores, labels, truth = world(rng, queries=100)
    truth[FEWEST - 1 :] = -1
    with pytest.raises(ValueError, match=f"{FEWEST - 1} specimens .* at least {FEWEST}"):
        fit(scores, labels, truth, np.ones(100, dtype=bool))


def test_precisions_are_rounded_up():
    assert PRECISIONS[precision_step(0.9)] == 0.9
    assert PRECISIONS[precision_step(0.901)] == 0.91
    assert PRECISIONS[precision_step(0.99)] == 0.99
    with pytest.raises(ValueError, match=r"from 0\.5 to 0\.99"):
        precision_step(0.999)


def test_whole_species_are_hidden_until_enough_queries_lack_theirs(rng):
    truth = rng.integers(0, 50, 1000)
    hidden = choose_absent(truth, np.ones(1000, dtype=bool), share=0.3)
    assert np.isin(truth, hidden).mean() == pytest.approx(0.3, abs=0.03)
    assert len(choose_absent(truth, truth < 25, share=0.3)) == 0
    assert not set(choose_absent(truth, truth < 40, share=0.3)) & set(range(40, 50))


def test_reliability_of_a_case_worked_by_hand():
    confidence = np.array([0.15, 0.15, 0.95, 1.0])
    right = np.array([True, False, True, True])
    table = reliability(confidence, right)
    assert table["n"].tolist() == [2, 2]
    assert table["accuracy"].tolist() == [0.5, 1.0]
    assert table[["low", "high"]].to_numpy().ravel() == pytest.approx([0.1, 0.2, 0.9, 1.0])
    expected = (abs(0.15 - 0.5) * 2 + abs(0.975 - 1) * 2) / 4
    assert expected_calibration_error(confidence, right) == pytest.approx(expected)


def test_accuracy_against_coverage_of_a_case_worked_by_hand():
    curve = coverage_curve(np.array([0.2, 0.9, 0.6, 0.4]), np.array([False, True, True, False]))
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve["accuracy"].tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert curve["threshold"].tolist() == [0.9, 0.6, 0.4, 0.2]


def test_intervals_are_those_of_clopper_and_pearson():
    low, high = binomial_interval(np.array([0, 3, 10]), np.array([10, 10, 10]))
    assert low == pytest.approx([0, beta.ppf(0.025, 3, 8), beta.ppf(0.025, 10, 1)])
    assert high == pytest.approx([beta.ppf(0.975, 1, 10), beta.ppf(0.975, 4, 7), 1])


def test_acceptance_leaves_out_queries_without_a_name():
    answers = Answers(lineage([1, 2, 3]), np.ones((3, 4)), np.ones(3))
    truth = lineage([1, 2, 5])
    truth[1, 3] = -1
    passes = np.array([[True] * 4, [True] * 4, [True, True, True, False]])
    table = acceptance(answers, passes, truth).set_index("rank")
    assert table.loc["species"].tolist() == [2, 0.5, 1.0, 0.5]
    assert table.loc["genus"].tolist() == pytest.approx([3, 1.0, 2 / 3, 2 / 3])
