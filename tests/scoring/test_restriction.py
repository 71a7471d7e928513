import json

import pytest
import torch
from omegaconf import OmegaConf

from projects.bioscan_clip.datasets.taxonomy import taxon_code
from projects.bioscan_clip.scoring import Specimens
from projects.bioscan_clip.scoring.restriction import (
    allowed_keys,
    checked,
    described,
    restrict,
)

NAMES = [
    ("Diptera", "Syrphidae", "Syrphus", "Syrphus ribesii"),
    ("Diptera", "Syrphidae", "Eristalis", "not_classified"),
    ("Diptera", "Culicidae", "Culex", "Culex pipiens"),
    ("Coleoptera", "Carabidae", "Carabus", "Carabus auratus"),
]
LABELS = torch.tensor([[taxon_code(name.encode()) for name in row] for row in NAMES])


@pytest.mark.parametrize(
    ("restrict_to", "expected"),
    [
        ({"order": "Diptera"}, [0, 1, 2]),
        ({"family": ["Culicidae", "Carabidae"]}, [2, 3]),
        ({"order": "Diptera", "family": ["Culicidae", "Carabidae"]}, [2]),
    ],
)
def test_names_by_rank(restrict_to, expected):
    assert allowed_keys(LABELS, restrict_to).nonzero().squeeze(1).tolist() == expected


def test_checklist(tmp_path, caplog):
    path = tmp_path / "checklist.txt"
    path.write_text("# found in June\nSyrphus ribesii\n\nCarabidae  # any\nApis mellifera\n")
    assert allowed_keys(LABELS, path).nonzero().squeeze(1).tolist() == [0, 3]
    assert "no key is of 1 of 3 names: Apis mellifera" in caplog.text


def test_checklist_that_begins_with_a_byte_order_mark(tmp_path, caplog):
    path = tmp_path / "checklist.txt"
    path.write_bytes(b"\xef\xbb\xbfCarabidae\r\nCarabidae\r\n")
    assert allowed_keys(LABELS, path).nonzero().squeeze(1).tolist() == [3]
    assert caplog.messages == []


def test_what_is_unknown_matches_no_name(tmp_path):
    path = tmp_path / "checklist.txt"
    path.write_text("not_classified\nCarabus\n")
    assert allowed_keys(LABELS, path).nonzero().squeeze(1).tolist() == [3]
    for name in ("not_classified", ""):
        with pytest.raises(ValueError, match=f"no key specimen is of species {name}"):
            allowed_keys(LABELS, {"species": name})


def test_long_lists_are_cut_short(caplog):
    names = [f"Name {number}" for number in range(30)]
    with pytest.raises(ValueError, match=r"of genus Name 0 or .* or Name 4 or \.\.\.\.$"):
        allowed_keys(LABELS, {"genus": names})
    assert "no key is of 30 of 30 names: Name 0, Name 1, Name 2, Name 3, Name 4, ..." in caplog.text


def test_bad_restrictions_are_refused(tmp_path):
    for nothing in ({}, {"order": []}, {"order": "Diptera", "family": None}):
        with pytest.raises(ValueError, match="names no taxon; give a name"):
            allowed_keys(LABELS, nothing)
    with pytest.raises(ValueError, match="of order Diptera and family Carabidae"):
        allowed_keys(LABELS, {"order": "Diptera", "family": "Carabidae"})
    (tmp_path / "latin.txt").write_bytes("Carabus café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text .* at byte 11.*save it as"):
        allowed_keys(LABELS, tmp_path / "latin.txt")
    (tmp_path / "elsewhere.txt").write_text("Apis mellifera\n")
    with pytest.raises(ValueError, match=r"any taxon in .*elsewhere\.txt \(Apis mellifera\)"):
        allowed_keys(LABELS, tmp_path / "elsewhere.txt")
    with pytest.raises(ValueError, match="'tribe' is not a rank"):
        allowed_keys(LABELS, {"tribe": "Syrphini"})
    with pytest.raises(ValueError, match="no key specimen is of order Odonata"):
        allowed_keys(LABELS, {"order": "Odonata"})
    with pytest.raises(FileNotFoundError, match="no checklist"):
        allowed_keys(LABELS, tmp_path / "missing.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="names nothing"):
        allowed_keys(LABELS, tmp_path / "empty.txt")


def test_checked_before_any_work(tmp_path):
    given = OmegaConf.create({"order": "Diptera", "family": ["Culicidae"]})
    plain = checked(given)
    assert json.loads(json.dumps(plain)) == {"order": ["Diptera"], "family": ["Culicidae"]}
    with pytest.raises(FileNotFoundError, match="no checklist"):
        checked(str(tmp_path / "missing.txt"))
    with pytest.raises(ValueError, match="'tribe' is not a rank"):
        checked({"tribe": "Syrphini"})


def sets(**rows):
    """Specimens of some rows of `LABELS`; the row is their embedding, so that it can be told."""
    return {
        role: Specimens(LABELS[chosen], dna=torch.tensor(chosen).float()[:, None])
        for role, chosen in rows.items()
    }


def test_queries_outside_are_left_out_and_counted():
    """To count them as wrong would blame the model for what nobody asked."""
    given = sets(keys=[0, 1, 2, 3], seen=[3, 0, 1], unseen=[3, 3], tuning_seen=[2, 3])
    kept, left_out = restrict(given, {"family": ["Syrphidae"]})
    assert {role: each.dna.squeeze(1).tolist() for role, each in kept.items()} == {
        "keys": [0, 1],
        "seen": [0, 1],
        "unseen": [],
        "tuning_seen": [],
    }
    assert left_out == {"keys": 2, "seen": 1, "unseen": 2, "tuning_seen": 2}
    kept, _ = restrict(given, {"species": "Syrphus ribesii"})  # the species of 1 is not known
    assert kept["seen"].dna.squeeze(1).tolist() == [0]


def test_no_query_inside_is_refused():
    with pytest.raises(ValueError, match="no query is of family Culicidae or Carabidae"):
        restrict(sets(keys=[0, 2, 3], seen=[0, 1]), {"family": ["Culicidae", "Carabidae"]})


def test_restrictions_in_words(tmp_path):
    assert described({"order": ["Diptera"]}) == "order Diptera"
    assert described({"order": "A", "genus": ["B", "C"]}) == "order A and genus B or C"
    path = tmp_path / "list.txt"
    path.write_text("A\nB\n")
    assert described(path) == f"any taxon in {path} (A, B)"
