"""Expected values come from scikit-learn's neighbours and recall, and from counting."""

from collections import Counter

import pandas as pd
import pytest
from sklearn.metrics import recall_score
from sklearn.neighbors import NearestNeighbors

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.class_plot import class_accuracy
from projects.bioscan_clip.reports.confusion import confused_taxa
from projects.bioscan_clip.reports.nearest import nearest_names, shared_rank


@pytest.fixture(scope="module")
def nearest(evaluation):
    return nearest_names(evaluation, ("rgb", "dna"))


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
            assert rows[f"found_{rank}"].fillna("").tolist() == predicted[rank].fillna("").tolist()


def test_lowest_shared_rank():
    true = pd.DataFrame([("A", "b", "c", "d")] * 6, columns=list(RANKS), dtype="string")
    other = [
        ("A", "b", "c", "d"), ("A", "b", "c", "x"), ("A", "b", "x", "y"),
        ("A", "x", "y", "z"), ("X", "x", "y", "z"), ("A", None, None, None),
    ]  # fmt: skip
    predicted = pd.DataFrame(other, columns=list(RANKS), dtype="string")
    expected = ["species", "genus", "family", "order", "none", "order"]
    assert shared_rank(true, predicted).tolist() == expected
    nameless = true.assign(**dict.fromkeys(RANKS, pd.NA))
    assert set(shared_rank(nameless, nameless)) == {"none"}


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
    row = {"split": "seen", "row": 0, "key": 0, "similarity": 1.0}
    taxa = ("Diptera", "Culicidae", "Culex", "Culex pipiens")
    names = dict(zip(RANKS, taxa, strict=True))
    true = {f"true_{rank}": name for rank, name in names.items()}
    found = {f"found_{rank}": name for rank, name in names.items()}
    found |= {"found_genus": "Aedes", "found_species": "Aedes vexans"}
    table = confused_taxa(pd.DataFrame([row | true | found]), "species")
    assert table[["truth", "prediction", "times", "of", "shared"]].to_numpy().tolist() == [
        ["Culex pipiens", "Aedes vexans", 1, 1, "family"]
    ]
