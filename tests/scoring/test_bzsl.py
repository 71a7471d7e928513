"""Densities against SciPy's Student t and the paper's formulas, written out one class at a time."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_t

from projects.bioscan_clip.scoring.bzsl import (
    GRID,
    BayesianClassifier,
    Hyperparameters,
    hold_out,
    zero_shot,
)

SEEN, UNSEEN, DIMENSION, COMPONENTS = 7, 3, 6, 4
SOME = [
    Hyperparameters(*values)
    for values in product((1, 3), (0.1, 1.0), (10.0, 25.0), (5, 100), (1.0, 10.0))
]


def made(seed=0, photos_per_class=9):
    """Return photos, labels and side information of classes that DNA and photos tell apart."""
    rng = np.random.default_rng(seed)
    classes = SEEN + UNSEEN
    side = rng.normal(size=(classes, 5))
    centres = side @ rng.normal(size=(5, DIMENSION))
    sizes = rng.integers(2, photos_per_class, classes)
    labels = rng.permutation(np.repeat(np.arange(classes), sizes))
    photos = centres[labels] + rng.normal(size=(len(labels), DIMENSION)) * [3, 1, 1, 1, 0.3, 0.1]
    return photos, labels, side


def class_statistics(photos):
    n = len(photos)
    return n, photos.mean(axis=0), (n - 1) * np.cov(photos.T)


def brute_force(photos, labels, side, unseen, queries, given):
    """The formulas as they stand: each scale matrix in full, SciPy's density."""
    values, vectors = np.linalg.eigh(np.cov(photos.T))
    kept = vectors[:, np.argsort(values)[-COMPONENTS:]]
    photos, queries = photos @ kept, queries @ kept
    d, k0, k1, m = COMPONENTS, given.k0, given.k1, given.m * COMPONENTS
    seen = np.unique(labels)
    statistics = {j: class_statistics(photos[labels == j]) for j in seen}
    mu0 = np.mean([mean for _, mean, _ in statistics.values()], axis=0)
    sigma0 = np.mean([scatter / (n - 1) for n, _, scatter in statistics.values()], axis=0)
    psi = (m - d - 1) * sigma0 / given.s
    densities = []
    for n, mean, scatter in statistics.values():
        v, kappa = n + m - d + 1, k0 * k1 / (k0 + k1)
        gap = (mean - mu0)[:, None]
        scale = psi + scatter + n * kappa / (n + kappa) * gap @ gap.T
        scale /= (n + kappa) * v / (n + kappa + 1)
        centre = (n * mean + kappa * mu0) / (n + kappa)
        densities.append(multivariate_t(centre, scale, df=v).logpdf(queries))
    used = []
    for code in unseen:
        by_distance = seen[np.argsort(np.linalg.norm(side[seen] - side[code], axis=1))]
        group, further = (
            list(by_distance[: given.neighbours]),
            list(by_distance[given.neighbours :]),
        )
        while set(group) in used:
            group[-1] = further.pop(0)
        used.append(set(group))
        parts = [statistics[j] for j in group]
        kappas = np.array([n * k1 / (n + k1) for n, _, _ in parts])
        kappa = (kappas.sum() + k0) * k1 / (kappas.sum() + k0 + k1)
        centre = sum(k * mean for k, (_, mean, _) in zip(kappas, parts, strict=True)) + k0 * mu0
        centre = centre / (kappas.sum() + k0)
        v = sum(n for n, _, _ in parts) - len(parts) + m - d + 1
        scale = (psi + sum(scatter for _, _, scatter in parts)) * (kappa + 1) / (kappa * v)
        densities.append(multivariate_t(centre, scale, df=v).logpdf(queries))
    return np.array(densities), np.concatenate([seen, unseen])


@pytest.mark.parametrize("seed", range(4))
def test_densities_and_names_are_those_of_the_formulas(seed):
    photos, labels, side = made(seed)
    unseen = np.arange(SEEN, SEEN + UNSEEN)
    if seed == 3:
        side[unseen] = side[0]  # all have the same neighbours, so that ties are broken
    train = labels < SEEN
    queries = photos[::2]
    classifier = BayesianClassifier(photos[train], labels[train], side, unseen, COMPONENTS)
    found = np.stack(list(classifier.log_densities(queries, SOME)), axis=1)
    named = classifier.predict(queries, SOME)
    for row, given in enumerate(SOME):
        expected, classes = brute_force(photos[train], labels[train], side, unseen, queries, given)
        np.testing.assert_allclose(found[row], expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(named[row], classes[expected.argmax(axis=0)])


def test_a_class_of_one_photo_has_no_scatter():
    """Its density is that of its only photo and the prior, in one dimension a plain t."""
    photos = np.array([[0.0], [2.0], [10.0], [10.0], [14.0], [40.0]])
    labels = np.array([0, 0, 1, 1, 1, 2])
    classifier = BayesianClassifier(photos, labels, np.eye(3), np.array([], dtype=np.int64))
    *_, found = classifier.log_densities(np.array([[35.0]]), [Hyperparameters(s=1.0, m=5)])
    sigma0 = np.mean([2.0, 16 / 3])
    mu0 = np.mean([1.0, 34 / 3, 40.0])
    kappa = 0.1 * 10 / 10.1
    scatter = (5 - 2) * sigma0 + kappa / (1 + kappa) * (40 - mu0) ** 2
    freedom = 1 + 5 - 1 + 1
    expected = multivariate_t(
        (40 + kappa * mu0) / (1 + kappa), scatter * (2 + kappa) / (1 + kappa) / freedom, df=freedom
    ).logpdf(35.0)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_fifth_of_each_class_is_held_out_once():
    labels = np.repeat(np.arange(5), [1, 2, 5, 6, 20])
    rows = np.arange(len(labels))[::-1]
    kept, held_out = hold_out(rows, labels)
    assert sorted([*kept, *held_out]) == sorted(rows)
    assert np.bincount(labels[held_out]).tolist() == [0, 1, 1, 2, 4]
    assert all(map(np.array_equal, hold_out(rows, labels), (kept, held_out)))


def split(labels, validation, test, rng):
    """Return rows by split: a third of the photos of seen classes is tested."""
    known = np.flatnonzero(~np.isin(labels, test))
    tested = rng.random(len(known)) < 0.33
    trainval = known[~tested]
    is_validation = np.isin(labels[trainval], validation)
    return {
        "trainval": trainval,
        "train": trainval[~is_validation],
        "val": trainval[is_validation],
        "test_seen": known[tested],
        "test_unseen": np.flatnonzero(np.isin(labels, test)),
    }


def test_scores_are_those_of_the_formulas_and_tuning_sees_no_test():
    photos, labels, side = made(seed=5, photos_per_class=30)
    splits = split(labels, validation=[0, 1], test=[8, 9], rng=np.random.default_rng(0))
    found = zero_shot(photos, side, labels, splits, SOME)

    def accuracies(given, train, seen, unseen):
        classifier = BayesianClassifier(
            photos[train], labels[train], side, np.unique(labels[unseen])
        )
        parts = []
        for rows in (seen, unseen):
            right = classifier.predict(photos[rows], [given])[0] == labels[rows]
            parts.append(np.mean([right[labels[rows] == c].mean() for c in set(labels[rows])]))
        return [*parts, 2 * parts[0] * parts[1] / max(sum(parts), 1e-9)]

    kept, held_out = hold_out(splits["train"], labels)
    tuned = [accuracies(given, kept, held_out, splits["val"])[-1] for given in SOME]
    assert len(set(tuned)) > 1
    assert found.chosen == SOME[int(np.argmax(tuned))]
    test = (splits["trainval"], splits["test_seen"], splits["test_unseen"])
    expected = accuracies(found.chosen, *test)
    assert [found.seen, found.unseen, found.harmonic] == pytest.approx(expected)
    tested = np.concatenate(test[1:])
    changed = photos.copy()
    changed[tested] = np.random.default_rng(1).normal(size=(len(tested), DIMENSION))
    assert zero_shot(changed, side, labels, splits, SOME).chosen == found.chosen


def test_the_grid_is_the_published_one():
    assert len(GRID) == 144
    assert Hyperparameters() in GRID


def test_photos_that_are_all_alike_and_seen_classes_that_are_unseen_are_refused():
    labels = np.repeat(np.arange(3), 4)
    with pytest.raises(ValueError, match="do not vary within classes"):
        BayesianClassifier(np.ones((12, 5)), labels, np.eye(3), np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match=r"Classes \[2\] are to be unseen"):
        BayesianClassifier(np.eye(12), labels, np.eye(3), np.array([2]))
