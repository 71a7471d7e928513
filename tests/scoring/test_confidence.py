"""Names of made-up embeddings: what is promised is kept, and counted as by hand."""

import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.scoring.confidence import (
    ABSENT,
    PRECISION,
    confidence_table,
    trusted_names,
)
from projects.bioscan_clip.scoring.evaluation import evaluate
from projects.bioscan_clip.scoring.specimens import Specimens

SPECIES, DIMENSION = 60, 24


def specimens(rng, per_species: int, noise: float, unnamed: int = 0) -> Specimens:
    """Embeddings that are the closer, the more ranks two specimens share."""
    labels = np.array([[s // 30, 10 + s // 10, 20 + s // 3, 100 + s] for s in range(SPECIES)])
    directions = {code: np.random.default_rng(code).normal(size=DIMENSION) for code in labels.flat}
    labels = np.repeat(labels, per_species, axis=0)
    vectors = np.array([sum(directions[code] for code in row) for row in labels])
    vectors = vectors + noise * rng.normal(size=vectors.shape)
    labels[:unnamed, -1] = -1
    return Specimens(torch.from_numpy(labels), rgb=torch.from_numpy(vectors).float())


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    parts = {"keys": 4, "seen": 6, "unseen": 3, "tuning_seen": 6, "tuning_unseen": 3}
    return {
        role: specimens(rng, count, 1.0, unnamed=4 if role == "seen" else 0)
        for role, count in parts.items()
    }


@pytest.fixture(scope="module")
def trust(sets):
    return trusted_names(sets)


def test_accepted_names_are_as_often_right_as_promised(trust):
    assert list(trust) == [("rgb", "rgb")]  # there are no barcodes
    table = confidence_table(trust).set_index(["split", "average", "level"])["value"]
    for rank in RANKS:
        assert table["all", "coverage", rank] > 0.2
        assert table["all", "precision", rank] > PRECISION - 0.04
        assert table["all", "ece", rank] < 0.1


def test_species_that_no_key_has_are_rarely_given_a_species(trust):
    table = confidence_table(trust).set_index(["split", "average", "level"])["value"]
    assert table[ABSENT, "coverage", "species"] < 0.25 < table["seen", "coverage", "species"]
    assert table[ABSENT, "coverage", "order"] > 0.8
    assert table.get((ABSENT, "precision", "species"), 0) == 0


def test_half_of_the_queries_have_no_key_of_their_species(trust, sets):
    (each,) = trust.values()
    absent = each.groups == ABSENT
    assert 0.4 < absent.mean() < 0.6
    species = each.truth[:, -1]
    assert not set(species[absent]) & set(species[~absent])
    assert (each.groups[:4] == "seen").all()  # whose species is unknown
    assert len(absent) == len(sets["seen"]) + len(sets["unseen"])


def test_counts_are_those_of_a_loop(trust):
    (each,) = trust.values()
    for row in confidence_table(trust).itertuples():
        if row.average == "ece":
            continue
        place = RANKS.index(row.level)
        chosen = [
            query
            for query in range(len(each.groups))
            if each.truth[query, place] != -1 and row.split in ("all", each.groups[query])
        ]
        accepted = [query for query in chosen if each.accepted[query, place]]
        truth, names = each.truth[:, place], each.answers.labels[:, place]
        right = [query for query in accepted if truth[query] == names[query]]
        part, whole = (accepted, chosen) if row.average == "coverage" else (right, accepted)
        assert (row.value, row.n) == (len(part) / len(whole), len(whole))
        assert row.low <= row.value <= row.high


def test_names_of_numbers(sets):
    numbers = evaluate(sets).numbers()
    for average in ("coverage", "precision"):
        assert 0 < numbers[f"rgb_to_rgb/seen/{average}/top1/species"] <= 1
    assert "rgb_to_rgb/all/ece/top1/genus" in numbers


def test_nothing_to_calibrate_on(sets):
    scored = {role: sets[role] for role in ("keys", "seen", "unseen")}
    assert trusted_names(scored) == {}
    assert trusted_names({**scored, "tuning_seen": sets["tuning_seen"][torch.arange(59)]}) == {}
    assert trusted_names({"keys": sets["keys"], "tuning_seen": sets["tuning_seen"]}) == {}
    assert confidence_table({}).empty
