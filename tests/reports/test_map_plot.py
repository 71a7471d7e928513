from collections import Counter

import faiss
import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

from projects.bioscan_clip.reports.map_plot import choose_rows, flatten, map_plot


def test_some_of_every_order_are_chosen():
    orders = pd.Series(["common"] * 9000 + ["rare"] * 30 + ["single"] + [None] * 40)
    rows = choose_rows(orders, 500)
    counts = Counter(orders.iloc[rows].fillna("unknown"))
    assert len(set(rows)) == len(rows) == 500
    assert counts["single"] == 1
    assert counts["rare"] >= 25
    assert counts["unknown"] >= 25
    assert np.array_equal(rows, choose_rows(orders, 500))
    assert np.array_equal(choose_rows(orders, 10**6), np.arange(len(orders)))


def test_neighbours_stay_neighbours_on_the_plane():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 30)
    vectors = (rng.normal(size=(5, 64))[groups] + 0.2 * rng.normal(size=(150, 64))).astype("f4")
    before = vectors.copy()
    plane = flatten(vectors, seed=0)
    assert plane.shape == (150, 2)
    assert KNeighborsClassifier(6).fit(plane, groups).score(plane, groups) > 0.98
    assert np.array_equal(plane, flatten(vectors, seed=0))
    assert np.array_equal(vectors, before)


def test_randomness_and_threads_of_others_are_left_alone():
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype("f4")
    faiss.omp_set_num_threads(2)
    np.random.seed(5)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    flatten(vectors, seed=0)
    assert np.random.random() == expected  # noqa: NPY002
    assert faiss.omp_get_max_threads() == 2


def test_map_shows_each_specimen_once_per_modality(evaluation, specimens):
    figure = map_plot(evaluation).figure
    total = sum(len(each.table) for each in specimens.values())
    by_order = [trace for trace in figure.data if trace.visible]
    by_modality = [trace for trace in figure.data if not trace.visible]
    assert sum(len(trace.x) for trace in by_order) == 3 * total
    assert {trace.name: len(trace.x) for trace in by_modality} == dict.fromkeys(
        ("photo", "barcode", "name"), total
    )
