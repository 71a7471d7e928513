import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.datasets import taxonomy
from projects.bioscan_clip.datasets.taxonomy import encode_column, encode_taxa, taxon_code

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: not name.endswith(b"\0") and name.lower() != b"nan"
)


def test_unknown_labels_are_minus_one():
    names = [b"not_classified", b"", b"nan", b"NaN", b"Diptera", b"Nanina"]
    assert (encode_taxa(np.array(names)) < 0).tolist() == [True] * 4 + [False] * 2


@given(st.lists(NAMES, min_size=1, max_size=50))
def test_codes_are_equal_exactly_where_names_are(names):
    codes = encode_taxa(np.array(names))
    assert ((codes[:, None] == codes) == [[a == b for b in names] for a in names]).all()
    assert (codes >= 0).all()


def test_code_does_not_depend_on_the_other_names():
    """The digest is fixed: saved codes stay comparable between versions and files."""
    alone = encode_taxa(np.array([b"Culicidae"]))
    among = encode_taxa(
        np.array([b"Muscidae", b"a much longer name than the others", b"Culicidae"])
    )
    assert alone[0] == among[2] == taxon_code(b"Culicidae") == 0xE1E641D3BFB9D8F2 >> 1


def test_each_name_of_a_column_is_hashed_once(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(taxonomy, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(taxonomy, "taxon_code", lambda name: hashed.append(name) or len(hashed))
    with h5py.File(tmp_path / "names.hdf5", "w") as file:
        file["species"] = np.array([b"a", b"b", b"a", b"b", b"c", b"b", b"a"])
        assert encode_column(file["species"]).tolist() == [1, 2, 1, 2, 3, 2, 1]
    assert hashed == [b"a", b"b", b"c"]


def test_no_names():
    assert encode_taxa(np.array([], dtype="S1")).shape == (0,)


def test_column_is_encoded_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(taxonomy, "_ROWS_AT_ONCE", 3)
    names = np.array([b"a", b"b", b"a", b"not_classified", b"c", b"b", b"a"])
    with h5py.File(tmp_path / "names.hdf5", "w") as file:
        file["species"] = names
        assert encode_column(file["species"]).tolist() == encode_taxa(names).tolist()
