import json

import numpy as np
import pytest

from projects.bioscan_clip.scoring.calibration import (
    FEWEST,
    PRECISIONS,
    RISK,
    Calibration,
    choose_absent,
    fit,
    lowest_threshold,
    precision_step,
)
from projects.bioscan_clip.scoring.reliability import expected_calibration_error
from tests.scoring.world import world


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
    right = answers.labels == truth
    for rank in range(4):
        assert right[passes[:, rank], rank].mean() > 0.87
        error = expected_calibration_error(answers.confidence[:, rank], right[:, rank])
        assert error < 0.08
    assert passes[is_absent, 3].mean() < 0.5 * (answers.labels[is_absent, 3] >= 0).mean()
    assert answers.in_keys[is_absent].mean() < answers.in_keys[~is_absent].mean() - 0.1
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
