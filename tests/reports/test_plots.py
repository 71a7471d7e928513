"""Expected values come from scikit-learn's neighbours and recall, and from counting."""

from collections import Counter

import pandas as pd
import pytest
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.plots import (
    class_accuracy,
    class_plot,
    confused_taxa,
    in_order,
    shared_rank,
)
from projects.bioscan_clip.reports.predictions import predictions
from projects.bioscan_clip.scoring.neighbours import Match


@pytest.fixture(scope="module")
def nearest(evaluation):
    matches = [Match("rgb", "dna", split) for split in evaluation.queries]
    return pd.concat([predictions(evaluation, match) for match in matches], ignore_index=True)


@pytest.fixture(scope="module")
def found(evaluation, specimens):
    """True and predicted names of each split's queries, by scikit-learn."""
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(evaluation.keys.dna.numpy())
    names = {}
    for split, queries in evaluation.queries.items():
        rows = search.kneighbors(queries.rgb.numpy(), return_distance=False)[:, 0]
        names[split] = specimens[split].table, specimens["keys"].table.iloc[rows]
    return names


def test_names_of_the_nearest_key(nearest, found):
    for split, (true, predicted) in found.items():
        rows = nearest[nearest["split"] == split]
        for rank in RANKS:
            assert rows[f"true_{rank}"].fillna("").tolist() == true[rank].fillna("").tolist()
            assert (
                rows[f"predicted_{rank}"].fillna("").tolist() == predicted[rank].fillna("").tolist()
            )


def side_by_side(true: list[tuple], predicted: list[tuple], split: str = "seen") -> pd.DataFrame:
    columns = [f"{side}_{rank}" for side in ("true", "predicted") for rank in RANKS]
    rows = [(*left, *right) for left, right in zip(true, predicted, strict=True)]
    return pd.DataFrame(rows, columns=columns, dtype="string").assign(split=split)


def test_lowest_shared_rank():
    true = [("A", "b", "c", "d")] * 6
    other = [
        ("A", "b", "c", "d"), ("A", "b", "c", "x"), ("A", "b", "x", "y"),
        ("A", "x", "y", "z"), ("X", "x", "y", "z"), ("A", None, None, None),
    ]  # fmt: skip
    expected = ["species", "genus", "family", "order", "none", "order"]
    assert shared_rank(side_by_side(true, other)).tolist() == expected
    nameless = [(None,) * 4]
    assert shared_rank(side_by_side(nameless, nameless)).tolist() == ["none"]


@pytest.mark.parametrize("rank", ["family", "species"])
def test_accuracy_of_each_class(nearest, found, specimens, rank):
    keys = specimens["keys"].table
    table = class_accuracy(nearest, keys, rank).set_index(["split", "taxon"])
    for split, (true, predicted) in found.items():
        known = true[rank].notna().to_numpy()
        truth = true[rank][known].tolist()
        answers = predicted[rank][known].fillna("?").tolist()
        for taxon, queries in Counter(truth).items():
            recall = recall_score(truth, answers, labels=[taxon], average="macro")
            expected = [queries, recall, (keys[rank] == taxon).sum()]
            assert table.loc[(split, taxon)].tolist() == pytest.approx(expected)
    assert len(table) == sum(true[rank].nunique() for true, _ in found.values())


@pytest.mark.parametrize("rank", ["genus", "species"])
def test_most_confused_taxa(nearest, found, rank):
    mistakes, sizes = Counter(), Counter()
    for split, (true, predicted) in found.items():
        for truth, answer in zip(true[rank], predicted[rank], strict=True):
            sizes[split, truth] += 1
            if not (pd.isna(truth) or pd.isna(answer) or truth == answer):
                mistakes[split, truth, answer] += 1
    table = confused_taxa(nearest, rank, shown=5)
    assert table["times"].tolist() == [times for _, times in mistakes.most_common(5)]
    for row in table.itertuples():
        assert mistakes[row.split, row.truth, row.prediction] == row.times
        assert sizes[row.split, row.truth] == row.of


def test_what_confused_taxa_have_in_common():
    true = [("Diptera", "Culicidae", "Culex", "Culex pipiens")]
    predicted = [("Diptera", "Culicidae", "Aedes", "Aedes vexans")]
    table = confused_taxa(side_by_side(true, predicted), "species")
    assert table.to_dict("records") == [
        {
            "split": "seen",
            "truth": "Culex pipiens",
            "prediction": "Aedes vexans",
            "times": 1,
            "of": 1,
            "shared": "family",
        }
    ]


def test_taxa_without_a_key_are_not_among_those_that_are_never_named_rightly():
    """What no key has, nothing can be named after: it is no failure of the model."""
    keys = pd.DataFrame([("A", "b", "c", "known"), ("A", "b", "c", "also")], columns=list(RANKS))
    names = ("known", "also", "absent", "absent too")
    true = [("A", "b", "c", name) for name in names]
    predicted = [("A", "b", "c", "known")] * 4
    sentence = class_plot(side_by_side(true, predicted), keys).sentence
    assert "Of 2 taxa of the rank species that have keys, 1 are never named rightly" in sentence
    assert "2 more have no key" in sentence
    assert class_plot(side_by_side(true, predicted), keys[:0]) is None


def test_usual_pairs_come_first_and_each_once():
    pairs = [("text", "all"), ("dna", "dna"), ("rgb", "text"), ("dna", "dna"), ("rgb", "dna")]
    assert in_order(pairs) == [("rgb", "dna"), ("dna", "dna"), ("rgb", "text"), ("text", "all")]
