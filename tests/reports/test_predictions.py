"""Accuracies that scikit-learn computes from the saved predictions are those of the metrics."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.reports.predictions import save_predictions
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.scoring.neighbours import PAIRS
from projects.bioscan_clip.scoring.specimens import Specimens, table_of

RANKS = ("order", "family", "genus", "species")


def specimens(count: int, seed: int, prefix: str) -> Specimens:
    rng = np.random.default_rng(seed)
    species = rng.integers(0, 10, count)
    taxa = (species // 5, species // 3, species // 2, species)
    names = {
        rank: np.array([f"{rank} {code}".encode() for code in codes])
        for rank, codes in zip(RANKS, taxa, strict=True)
    }
    names["species"][::7] = b"not_classified"
    labels = np.stack([encode_taxa(column) for column in names.values()], axis=1)
    centres = np.random.default_rng(5).normal(size=(10, 6))
    photo, barcode = centres[species] + rng.normal(size=(2, count, 6))
    ids = {"sampleid": np.array([f"{prefix}{row}".encode() for row in range(count)])}
    return Specimens(
        torch.from_numpy(labels),
        rgb=torch.from_numpy(photo),
        dna=torch.from_numpy(barcode),
        table=table_of(ids | names, count),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    sets = {
        role: specimens(count, seed, role)
        for seed, (role, count) in enumerate({"keys": 60, "seen": 40, "unseen": 30}.items())
    }
    evaluation = evaluate(sets)
    path = save_predictions(evaluation, tmp_path_factory.mktemp("run"))
    return evaluation, pq.read_table(path).to_pandas()


def test_every_specimen_stands_once_for_each_pair(saved):
    evaluation, table = saved
    pairs = table.groupby(["query", "key", "split"]).size().to_dict()
    assert pairs == {
        (query, key, split): count
        for query, key in PAIRS
        for split, count in (("seen", 40), ("unseen", 30))
    }
    seen = table[(table["split"] == "seen") & (table["key"] == "rgb")]
    assert seen["sampleid"].tolist() == evaluation.queries["seen"].table["sampleid"].tolist()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("rank", RANKS)
def test_accuracy_of_predictions(saved, rank):
    evaluation, table = saved
    numbers = evaluation.numbers()
    for (query, key, split), rows in table.groupby(["query", "key", "split"]):
        labelled = rows[rows[f"true_{rank}"].notna()]
        truth, predicted = labelled[f"true_{rank}"], labelled[f"predicted_{rank}"].fillna("")
        name = f"{query}_to_{key}/{split}/{{}}/top1/{rank}"
        assert numbers[name.format("micro")] == pytest.approx(accuracy_score(truth, predicted))
        macro = balanced_accuracy_score(truth, predicted)
        assert numbers[name.format("macro")] == pytest.approx(macro)


def test_nearest_keys_are_named(saved):
    evaluation, table = saved
    near = evaluation.neighbours["rgb", "dna", "unseen"]
    rows = table[(table["query"] == "rgb") & (table["key"] == "dna") & (table["split"] == "unseen")]
    for place, (_, row) in enumerate(rows.iterrows()):
        assert row["key_rows"].tolist() == near.keys[place].tolist()
        assert row["key_sampleids"].tolist() == [f"keys{key}" for key in near.keys[place].tolist()]
        np.testing.assert_allclose(row["similarities"], near.similarities[place])
        assert row["similarity"] == row["similarities"][0]
