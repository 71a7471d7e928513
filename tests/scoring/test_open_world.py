"""Thresholds equal those of brute force; scores equal those of loops and of scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import normalize

from projects.bioscan_clip.scoring import Specimens, nearest_keys
from projects.bioscan_clip.scoring import open_world as module
from projects.bioscan_clip.scoring.accuracy import COLUMNS
from projects.bioscan_clip.scoring.linear_head import INVERSE_PENALTY
from projects.bioscan_clip.scoring.open_world import (
    METHODS,
    Candidates,
    best_threshold,
    novelty,
    open_world,
    score_switch,
)

RANKS = ("order", "family", "genus", "species")
SPECIES, SEEN_SPECIES = 12, 7
CENTRES = np.random.default_rng(99).normal(size=(SPECIES, 8))


def specimens(species: np.ndarray, seed: int, noise: float = 0.7) -> Specimens:
    rng = np.random.default_rng(seed)
    labels = np.stack([species // 6, 10 + species // 4, 20 + species // 2, 40 + species], axis=1)
    photo, barcode = (CENTRES[species] + noise * rng.normal(size=(len(species), 8)) for _ in "ab")
    parts = {"rgb": torch.from_numpy(photo), "dna": torch.from_numpy(barcode)}
    return Specimens(torch.from_numpy(labels), **parts)


def queries(seen: int, unseen: int, seed: int) -> dict[str, Specimens]:
    rng = np.random.default_rng(seed)
    return {
        "seen": specimens(rng.integers(0, SEEN_SPECIES, seen), seed + 100),
        "unseen": specimens(rng.integers(SEEN_SPECIES, SPECIES, unseen), seed + 200),
    }


KEY_SPECIES = np.random.default_rng(0).permutation(np.repeat(np.arange(SPECIES), 5))
KEYS, SEEN_KEY = specimens(KEY_SPECIES, 1), torch.from_numpy(KEY_SPECIES < SEEN_SPECIES)
TUNING, QUERIES = queries(50, 40, 2), queries(60, 45, 3)


def score(keys=KEYS, seen_key=SEEN_KEY, tuning=TUNING, queries=QUERIES, **options):
    tuned = {f"tuning_{split}": part for split, part in tuning.items()}
    return open_world({"keys": replace(keys, is_seen=seen_key), **queries, **tuned}, **options)


@pytest.fixture(scope="module")
def table():
    return score()


def values(table, **chosen) -> dict[tuple[str, str, str], float]:
    for column, value in chosen.items():
        table = table[table[column] == value]
    names = zip(table["split"], table["average"], table["level"], strict=True)
    return dict(zip(names, table["value"], strict=True))


def by_brute_force(method: str, tuning, asked) -> dict[tuple[str, str, str], float]:
    """Do what CLIBD describes, one query and one threshold at a time."""
    labels, seen_key = KEYS.labels.numpy(), SEEN_KEY.numpy()
    feature = {"linear_fused": lambda part: (part.rgb + part.dna) / 2}.get(method, lambda p: p.rgb)
    unseen_by = feature(KEYS) if method == "linear_fused" else KEYS.dna
    photos, barcodes = (normalize(part.numpy()) for part in (feature(KEYS), unseen_by))
    head = LogisticRegression(C=INVERSE_PENALTY, tol=1e-8, max_iter=5000)
    head.fit(photos[seen_key], labels[seen_key, 3])

    def answers(photo):
        if method == "is_du":
            cosine = photos[seen_key] @ photo
            score, if_seen = cosine.max(), labels[seen_key][cosine.argmax()]
        else:
            probability = head.predict_proba(photo[None])[0]
            score, species = probability.max(), head.classes_[probability.argmax()]
            if_seen = labels[labels[:, 3] == species][0]
        return score, if_seen, labels[~seen_key][(barcodes[~seen_key] @ photo).argmax()]

    def everything(part):
        return [answers(photo) for photo in normalize(feature(part).numpy())], part.labels.numpy()

    def predict(answered, threshold):
        return np.array([if_seen if s >= threshold else other for s, if_seen, other in answered])

    def harmonic(threshold):
        shares = []
        for answered, truth in tuned:
            shares.append((predict(answered, threshold)[:, 3] == truth[:, 3]).mean())
        return 0 if min(shares) == 0 else 2 / (1 / shares[0] + 1 / shares[1])

    tuned = [everything(part) for part in tuning.values()]
    threshold = max(sorted(s for answered, _ in tuned for s, *_ in answered), key=harmonic)
    found = {("all", "decision", "threshold"): threshold}
    scores, kinds, decisions = [], [], []
    for split, part in asked.items():
        answered, truth = everything(part)
        scores += [score for score, *_ in answered]
        kinds += [split == "seen"] * len(answered)
        decisions += [(score >= threshold) == (split == "seen") for score, *_ in answered]
        predicted = predict(answered, threshold)
        for position, rank in enumerate(RANKS):
            pair = truth[:, position], predicted[:, position]
            found[split, "micro", rank] = (pair[0] == pair[1]).mean()
            found[split, "macro", rank] = balanced_accuracy_score(*pair)
    for average in ("micro", "macro"):
        for rank in RANKS:
            seen, unseen = (found[split, average, rank] for split in ("seen", "unseen"))
            found["harmonic", average, rank] = 2 * seen * unseen / (seen + unseen)
    found["all", "decision", "accuracy"] = np.mean(decisions)
    scores, kinds = np.array(scores), np.array(kinds)
    found["all", "decision", "auroc"] = auroc_of_pairs(scores[kinds], scores[~kinds])
    return found


def auroc_of_pairs(positive, negative) -> float:
    """The probability that a positive has the higher score; half where they are equal."""
    above = positive[:, None] - negative
    return ((above > 0) + (above == 0) / 2).mean()


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("method", ["is_du", "linear_du", "linear_fused"])
def test_equals_the_description(method, table):
    assert tuple(table.columns) == COLUMNS
    assert {*zip(table["query"], table["key"], strict=True)} == set(METHODS)
    assert set(table["k"]) == {1}
    found = values(table, key=method)
    expected = by_brute_force(method, TUNING, QUERIES)
    assert set(found) == set(expected)
    threshold = ("all", "decision", "threshold")
    assert found.pop(threshold) == pytest.approx(expected.pop(threshold), abs=2e-3)
    area = ("all", "decision", "auroc")  # two close scores may swap
    assert found.pop(area) == pytest.approx(expected.pop(area), abs=5e-4)
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found["harmonic", "micro", "species"] < 1


def test_intervals_and_counts(table):
    shares = table[table["level"].isin([*RANKS, "accuracy"])]
    assert (shares["low"] <= shares["value"]).all()
    assert (shares["value"] <= shares["high"]).all()
    assert table.loc[table["level"].isin(["auroc", "threshold"]), "low"].isna().all()
    micro = table[(table["average"] == "micro") & (table["level"] == "species")]
    assert dict(zip(micro["split"], micro["n"], strict=True)) == {
        "seen": 60,
        "unseen": 45,
        "harmonic": 105,
    }
    counts = table[table["average"] == "decision"].groupby("level")["n"].unique()
    assert {level: n.tolist() for level, n in counts.items()} == {
        "accuracy": [105],
        "auroc": [105],
        "threshold": [90],
    }
    n, share = 105, table.loc[table["level"] == "accuracy", "value"].iloc[0]
    row = table[table["level"] == "accuracy"].iloc[0]
    half = 1.96 * (share * (1 - share) / n) ** 0.5
    assert [row["low"], row["high"]] == pytest.approx([share - half, share + half], abs=0.02)
    assert table.equals(score())


def harmonic_of_loops(threshold, scores, right, seen) -> float:
    shares = [
        np.mean(
            [
                r[int(s >= threshold)]
                for s, r, one in zip(scores, right, seen, strict=True)
                if one == group
            ]
        )
        for group in (True, False)
    ]
    return 0.0 if sum(shares) == 0 else 2 * shares[0] * shares[1] / sum(shares)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), n=st.integers(2, 12))
def test_threshold_equals_brute_force(data, n):
    scores = data.draw(st.lists(st.integers(-3, 3).map(lambda i: i / 4), min_size=n, max_size=n))
    right = data.draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=n, max_size=n))
    seen = [True, False, *data.draw(st.lists(st.booleans(), min_size=n - 2, max_size=n - 2))]
    found = best_threshold(np.array(scores, dtype=np.float32), np.array(right), np.array(seen))
    by_score = {s: harmonic_of_loops(s, scores, right, seen) for s in sorted(set(scores))}
    best = max(by_score.values())
    assert found == min(s for s, value in by_score.items() if value >= best - 1e-12)


def test_equally_good_thresholds_are_equal_in_spite_of_rounding():
    # Right are 4 of 4 seen and 1 of 6 unseen queries, and from the higher score on 1 and 2: 2/7.
    seen = np.arange(10) < 4
    right = np.zeros((10, 2), dtype=bool)
    right[:4, 1] = right[4, :] = right[5, 0] = True
    scores = np.array([0.5] * 3 + [0.8, 0.8] + [0.5] + [0.8] * 4)
    assert harmonic_of_loops(0.5, scores, right, seen) == pytest.approx(2 / 7)
    assert harmonic_of_loops(0.8, scores, right, seen) == pytest.approx(2 / 7)
    assert best_threshold(scores, right, seen) == 0.5


def test_novel_species_are_farther_from_keys():
    """The keys lack the last species; those queries of theirs are left out of the known ones."""
    few = KEYS[KEYS.labels[:, 3] < 40 + SPECIES - 2]
    novel = specimens(np.repeat([SPECIES - 1, SPECIES - 2], 15), 5)
    table = novelty({"keys": few, **QUERIES, "novel": novel})
    both = Specimens.concatenate([QUERIES["seen"], QUERIES["unseen"]])
    known = both[both.labels[:, 3] < 40 + SPECIES - 2]
    assert 0 < len(known) < len(both)
    near = [
        (normalize(part.rgb.numpy()) @ normalize(few.dna.numpy()).T).max(axis=1)
        for part in (known, novel)
    ]
    expected = auroc_of_pairs(*near)
    found = values(table, query="rgb", key="dna")
    assert found.pop(("novel", "decision", "auroc")) == pytest.approx(expected, abs=1e-6)
    assert expected > 0.6
    assert {(average, level) for _, average, level in found} == {
        (average, rank) for average in ("micro", "macro") for rank in RANKS[:3]
    }
    assert novelty({"keys": few, **QUERIES}).empty


def one_answer(score: float, seen: bool) -> Candidates:
    """One query of each kind: right if it is taken for what it is."""
    labels = torch.tensor([[1, 1, 1, 1], [2, 2, 2, 2]])
    return Candidates(
        scores=torch.tensor([score, 0.5]),
        if_seen=labels[:1].expand(2, 4),
        if_unseen=labels[1:].expand(2, 4),
        labels=labels if seen else labels.flip(0),
        seen=torch.tensor([seen, not seen]),
    )


def test_equal_scores_are_taken_for_seen_species():
    found = values(score_switch(("rgb", "is_du"), one_answer(0.5, True), one_answer(0.5, False)))
    assert found["all", "decision", "threshold"] == 0.5
    assert found["all", "decision", "accuracy"] == 0.5
    assert found["all", "decision", "auroc"] == 0.5
    assert found["seen", "micro", "species"] == 1
    assert found["unseen", "micro", "species"] == 0
    assert found["harmonic", "micro", "species"] == 0


def test_close_negative_scores_keep_their_order():
    tuning = one_answer(0.9, True)
    close = Candidates(
        torch.tensor([0.99999994, 0.9999999, -0.5]),
        *(part[[0, 1, 1]] for part in (tuning.if_seen, tuning.if_unseen, tuning.labels)),
        seen=torch.tensor([True, False, False]),
    )
    assert values(score_switch(("rgb", "is_du"), tuning, close))["all", "decision", "auroc"] == 1


def test_one_query():
    asked = {"unseen": QUERIES["unseen"][torch.tensor([0])]}
    found = values(score(queries=asked, linear_head=False))
    assert found["all", "decision", "accuracy"] in (0, 1)
    assert {split for split, _, _ in found} == {"unseen", "all"}
    assert ("all", "decision", "auroc") not in found


def without(specimens: Specimens, *names: str) -> Specimens:
    parts = {name: part for name, part in specimens.modalities.items() if name not in names}
    return Specimens(specimens.labels, **parts)


def unnamed(specimens: Specimens) -> Specimens:
    labels = specimens.labels.clone()
    labels[:, 3] = -1
    return Specimens(labels, **specimens.modalities)


def test_queries_of_unknown_species_are_scored_at_other_ranks():
    asked = {split: unnamed(part) for split, part in QUERIES.items()}
    found = values(score(queries=asked, linear_head=False))
    expected = values(score(linear_head=False))
    assert found == {name: value for name, value in expected.items() if name[2] != "species"}


def test_no_linear_head_without_species(caplog):
    keys = unnamed(KEYS)
    keys.labels[~SEEN_KEY] = KEYS.labels[~SEEN_KEY]
    assert set(score(keys)["key"]) == {"is_du"}
    assert caplog.messages == ["There is no linear head: no seen key has a known species."]


NONE = torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({"keys": without(KEYS, "rgb")}, "photos and barcodes of keys"),
        ({"keys": without(KEYS, "dna")}, "photos and barcodes of keys"),
        (
            {"keys": Specimens(KEYS.labels, rgb=KEYS.rgb, dna=KEYS.dna[:, :4])},
            "photo and barcode embeddings of keys with the same dimension",
        ),
        ({"seen_key": SEEN_KEY | True}, "unseen keys"),
        ({"seen_key": SEEN_KEY & False}, "seen keys"),
        (
            {"tuning": {"unseen": TUNING["unseen"]}},
            "seen queries of known species to tune the threshold on",
        ),
        (
            {"tuning": TUNING | {"unseen": TUNING["unseen"][NONE]}},
            "unseen queries of known species to tune the threshold on",
        ),
        (
            {"tuning": TUNING | {"seen": unnamed(TUNING["seen"])}},
            "seen queries of known species to tune the threshold on",
        ),
        ({"tuning": TUNING | {"seen": without(TUNING["seen"], "rgb")}}, "photos of queries"),
        ({"queries": QUERIES | {"seen": without(QUERIES["seen"], "rgb")}}, "photos of queries"),
        ({"queries": {"seen": QUERIES["seen"][NONE]}}, "queries"),
        ({"queries": {}}, "queries"),
    ],
)
def test_what_is_lacking_is_named(change, lacking, caplog):
    table = score(**change, linear_head=False)
    assert table.empty
    assert tuple(table.columns) == COLUMNS
    expected = f"Seen and unseen species are not told apart: there are no {lacking}."
    assert caplog.messages == [expected]


def test_linear_head_is_an_option_and_off_where_it_takes_hours(monkeypatch, caplog):
    assert set(score(linear_head=False)["key"]) == {"is_du"}
    assert caplog.messages == []
    monkeypatch.setattr(module, "MOST_FITTED", 35 * SEEN_SPECIES)  # keys times species
    assert set(score()["key"]) == {"is_du", "linear_du", "linear_fused"}
    monkeypatch.setattr(module, "MOST_FITTED", 35 * SEEN_SPECIES - 1)
    assert set(score()["key"]) == {"is_du"}
    (message,) = caplog.messages
    assert "(linear_du) is left out: to fit one to 35 keys of 7 species may take hours" in message
    assert set(score(linear_head=True)["key"]) == {"is_du", "linear_du", "linear_fused"}


def test_nearest_keys_may_be_found_in_another_way():
    """As an approximate search does: here, the farthest key stands in for the nearest."""

    def farthest(queries, keys, k):
        similarities, rows = nearest_keys(-queries, keys, k)
        return -similarities, rows

    usual = values(score(linear_head=False))
    other = values(score(linear_head=False, nearest=farthest))
    assert other["seen", "micro", "species"] < 0.5 < usual["seen", "micro", "species"]


def test_seen_and_unseen_are_not_told_apart_without_saying_so(caplog):
    """Where nobody knows which keys are of seen species, or there is nothing to tune on."""
    assert score(seen_key=None).empty
    assert score(tuning={}).empty
    assert caplog.messages == []
