"""Expected probabilities come from scikit-learn, fitted in double precision."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from projects.bioscan_clip.scoring import linear_head as module
from projects.bioscan_clip.scoring.linear_head import INVERSE_PENALTY, fit_linear_head


def specimens(count: int, seed: int, classes: int = 9, width: int = 6) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    species = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    photos = centres[species] + rng.normal(size=(count, width))
    labels = np.stack([species // 6, 10 + species // 4, 20 + species // 2, 40 + species], axis=1)
    return torch.from_numpy(photos), torch.from_numpy(labels)


def test_equals_scikit_learn(monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 32)
    (photos, labels), (queries, _) = specimens(150, 0), specimens(70, 1)
    reference = LogisticRegression(C=INVERSE_PENALTY, tol=1e-8, max_iter=5000)
    reference.fit(normalize(photos.numpy()), labels[:, 3].numpy())
    expected = reference.predict_proba(normalize(queries.numpy()))
    probabilities, predicted = fit_linear_head(photos, labels).predict(queries)
    np.testing.assert_allclose(probabilities, expected.max(axis=1), atol=2e-3)
    clear = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel() > 0.01
    found = predicted[:, 3].numpy()
    np.testing.assert_array_equal(found[clear], reference.classes_[expected.argmax(axis=1)][clear])
    assert clear.sum() > 60


def test_other_ranks_are_those_of_the_species():
    photos, labels = specimens(150, 0)
    _, predicted = fit_linear_head(photos.half(), labels).predict(photos)
    species = predicted[:, 3] - 40
    others = torch.stack([species // 6, 10 + species // 4, 20 + species // 2], dim=1)
    assert predicted[:, :3].equal(others)


def test_specimens_of_unknown_species_teach_nothing():
    photos, labels = specimens(80, 0)
    strange, unknown = specimens(40, 5)
    unknown[:, 3] = -1
    expected = fit_linear_head(photos, labels)
    found = fit_linear_head(torch.cat([strange, photos]), torch.cat([unknown, labels]))
    assert found.weights.equal(expected.weights)
    assert found.labels.equal(expected.labels)
    with pytest.raises(ValueError, match="specimens of known species, but there are none"):
        fit_linear_head(strange, unknown)


def test_fits_where_gradients_are_off():
    photos, labels = specimens(40, 0)
    expected = fit_linear_head(photos, labels)
    with torch.inference_mode():
        found = fit_linear_head(photos * 1, labels * 1)
        assert found.predict(photos)[0].equal(expected.predict(photos)[0])
    assert found.weights.equal(expected.weights)
    assert not found.weights.requires_grad


def test_one_species_is_certain_and_no_query_gets_no_answer():
    photos, labels = specimens(5, 0, classes=1)
    head = fit_linear_head(photos, labels)
    probabilities, predicted = head.predict(photos[:1])
    assert probabilities.tolist() == [1]
    assert predicted.equal(labels[:1])
    assert [part.shape for part in head.predict(photos[:0])] == [(0,), (0, 4)]


def test_says_when_it_did_not_converge(monkeypatch, caplog):
    photos, labels = specimens(150, 0)
    fit_linear_head(photos, labels)
    assert caplog.messages == []
    monkeypatch.setattr(module, "_ITERATIONS", 3)
    fit_linear_head(photos, labels)
    assert "did not converge in 3 steps of L-BFGS" in caplog.text
