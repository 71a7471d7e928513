from collections import defaultdict

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.data_tools import writing
from projects.bioscan_clip.data_tools.splits import BASE_SPLITS, partition, rows_of_splits
from projects.bioscan_clip.data_tools.subset import choose_specimens, read_roster, write_subset
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, SPLITS_1M, SPLITS_5M

UNIONS_1M = {
    "all_keys": {"seen_keys", "val_unseen_keys", "test_unseen_keys"},
    "no_split_and_seen_train": {"no_split", "train_seen"},
}


def specimens_in(path):
    """Return for each split its specimens and their species."""
    with h5py.File(path) as file:
        return {
            split: dict(zip(group["sampleid"][:], group["species"][:], strict=True))
            for split, group in file.items()
        }


@pytest.fixture
def subset_of(tmp_path):
    def write(path, n_specimens, seed=0):
        out = tmp_path / f"{n_specimens}-{seed}.hdf5"
        write_subset(path, out, n_specimens, seed)
        return out

    return write


@pytest.mark.parametrize("n_specimens", [20, 90, 300, 400])
def test_structure_is_kept(sample_file, subset_of, n_specimens):
    whole, part = specimens_in(sample_file), specimens_in(subset_of(sample_file, n_specimens))
    assert part.keys() == set(SPLITS_1M)
    assert all(part.values())
    kept = {name for members in part.values() for name in members}
    assert n_specimens - 5 <= len(kept) <= n_specimens
    for split, members in part.items():
        assert members.keys() == whole[split].keys() & kept
    for union, parts in UNIONS_1M.items():
        assert part[union].keys() == {name for each in parts for name in part[each]}
    for query, key in [
        ("val_seen", "seen_keys"),
        ("test_seen", "seen_keys"),
        ("val_unseen", "val_unseen_keys"),
        ("test_unseen", "test_unseen_keys"),
        ("val_seen", "train_seen"),
        ("test_seen", "train_seen"),
    ]:
        assert set(part[query].values()) <= set(part[key].values())


def test_rows_are_those_of_the_source(sample_file, subset_of):
    with h5py.File(sample_file) as whole, h5py.File(subset_of(sample_file, 60)) as part:
        for split, group in part.items():
            ids = whole[split]["sampleid"][:].tolist()
            rows = [ids.index(name) for name in group["sampleid"][:]]
            assert rows == sorted(rows)
            assert set(group) == set(whole[split])
            for column in set(group) - {"image"}:
                assert group[column].dtype == whole[split][column].dtype
                np.testing.assert_array_equal(group[column][:], whole[split][column][:][rows])
            width = group["image"].shape[1]
            np.testing.assert_array_equal(group["image"][:], whole[split]["image"][:, :width][rows])
        assert width == max(group["image_mask"][:].max() for group in part.values())


def test_only_few_species_are_thinned(sample_file, subset_of):
    """So that a species is as well sampled as it was."""
    whole, part = specimens_in(sample_file), specimens_in(subset_of(sample_file, 150))
    for split in ("train_seen", "test_unseen_keys"):
        counts = defaultdict(list)
        for members in (whole[split], part[split]):
            for species in set(members.values()):
                counts[species].append(list(members.values()).count(species))
        kept = [pair for species, pair in counts.items() if species in set(part[split].values())]
        assert sum(few < many for many, few in kept) <= 2


def test_shares_stay(sample_file, subset_of):
    def shares(splits):
        kinds = {
            "seen": {
                n for s in ("train_seen", "seen_keys", "val_seen", "test_seen") for n in splits[s]
            },
            "unseen": {n for s, members in splits.items() if "unseen" in s for n in members},
            "unlabelled": {
                n for n, species in splits["no_split"].items() if species == NOT_CLASSIFIED
            },
        }
        total = len({n for members in splits.values() for n in members})
        return [len(members) / total for members in kinds.values()]

    part = specimens_in(subset_of(sample_file, 120))
    np.testing.assert_allclose(shares(part), shares(specimens_in(sample_file)), atol=0.04)


def test_seed_decides(sample_file, tmp_path):
    contents = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_subset(sample_file, tmp_path / name, 80, seed)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert specimens_in(tmp_path / "a") != specimens_in(tmp_path / "c")


def as_5m(path, out):
    """Write the specimens of a BIOSCAN-1M file to the splits of BIOSCAN-5M, without pictures."""
    members = {
        "unseen_keys": ("val_unseen_keys", "test_unseen_keys"),
        "other_heldout": ("single_species",),
    }
    with h5py.File(path) as source, h5py.File(out, "w") as file:
        for split in SPLITS_5M:
            for column in ("processid", "species", "barcode"):
                parts = [source[part][column][:] for part in members.get(split, (split,))]
                file[f"{split}/{column}"] = np.concatenate(parts)


def test_5m_layout_identified_by_processid(sample_file, tmp_path):
    as_5m(sample_file, tmp_path / "5m.hdf5")
    kept = write_subset(tmp_path / "5m.hdf5", tmp_path / "part.hdf5", 100)
    assert 95 <= kept <= 100
    with h5py.File(tmp_path / "part.hdf5") as file:
        ids = {split: set(group["processid"][:]) for split, group in file.items()}
        species = {split: set(group["species"][:]) for split, group in file.items()}
    assert ids.keys() == set(SPLITS_5M)
    assert all(ids.values())
    assert ids["all_keys"] == ids["seen_keys"] | ids["unseen_keys"]
    assert len(set().union(*ids.values())) == kept
    assert species["val_unseen"] | species["test_unseen"] <= species["unseen_keys"]
    assert species["val_seen"] | species["test_seen"] <= species["seen_keys"]
    assert species["val_seen"] <= species["no_split_and_seen_train"]


def partitioned(counts, n_unlabelled, seed):
    """Return membership, species and splits of a population that the paper's partition divides."""
    species = np.repeat(np.arange(len(counts)), counts)
    species = np.concatenate([species, np.full(n_unlabelled, -1)])
    names = np.where(species < 0, NOT_CLASSIFIED, np.char.mod("%d", species).astype("S"))
    rows = rows_of_splits(partition(names.astype("S20"), seed))
    membership = np.zeros(len(species), dtype=np.int64)
    for bit, members in enumerate(rows.values()):
        membership[members] |= 1 << bit
    return membership, species, tuple(rows)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    n_unlabelled=st.integers(0, 100),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_whatever_the_population(counts, n_unlabelled, share, seed):
    membership, species, splits = partitioned(counts, n_unlabelled, seed)
    n_specimens = max(round(share * len(species)), min(len(species), 25))
    kept = choose_specimens(membership, species, splits, n_specimens, seed)
    assert n_specimens - 12 <= kept.sum() <= n_specimens
    for bit, split in enumerate(splits):
        members = (membership >> bit & 1).astype(bool)
        assert members.any() == (members & kept).any(), split
        # A species that is kept at all is kept in each of its splits.
        for one in set(species[kept & (species >= 0)]):
            assert (members & (species == one)).any() == (members & kept & (species == one)).any()


def test_all_of_it(sample_file):
    with h5py.File(sample_file) as file:
        roster = read_roster(file)
    assert choose_specimens(roster.membership, roster.species, roster.splits, 400, 0).all()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (401, r"holds 400 specimens, so 401 cannot be chosen"),
        (9, r"9 specimens cannot fill every split .* Choose at least 10\."),
        (0, r"0 specimens cannot fill every split"),
    ],
)
def test_numbers_that_cannot_be(sample_file, tmp_path, number, message):
    with pytest.raises(ValueError, match=message):
        write_subset(sample_file, tmp_path / "out.hdf5", number)
    assert list(tmp_path.iterdir()) == []


def test_smallest_number_works(sample_file, subset_of):
    """It holds a training, validation, test and key specimen of a seen species, two each of a

    validation and a test species, one without a label and one of a species with one specimen.
    """
    part = specimens_in(subset_of(sample_file, 10))
    assert {
        split: len(part[split]) for split in BASE_SPLITS if split != "no_split"
    } == dict.fromkeys(set(BASE_SPLITS) - {"no_split"}, 1)
    assert len(part["no_split"]) == 2


def damaged(sample_file, tmp_path, change):
    path = tmp_path / "damaged.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_empty_split_stays_empty(sample_file, tmp_path):
    def empty(file):
        for column, values in [(name, values[:0]) for name, values in file["val_seen"].items()]:
            del file["val_seen"][column]
            file["val_seen"][column] = values

    path = damaged(sample_file, tmp_path, empty)
    write_subset(path, tmp_path / "out.hdf5", 50)
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert len(file["val_seen/species"]) == 0
        assert len(file["test_seen/species"]) > 0


def test_missing_columns(sample_file, tmp_path):
    def without(*columns):
        def change(file):
            for column in columns:
                del file["val_seen"][column]

        return damaged(sample_file, tmp_path, change)

    with pytest.raises(ValueError, match="split val_seen lacks species"):
        write_subset(without("species"), tmp_path / "out.hdf5", 50)
    with pytest.raises(ValueError, match="neither sampleid nor processid in every split"):
        write_subset(without("sampleid", "processid"), tmp_path / "out.hdf5", 50)


def test_specimen_without_identifier(sample_file, tmp_path):
    def blank(file):
        file["val_seen/sampleid"][3] = b""

    with pytest.raises(ValueError, match="split val_seen, row 3: sampleid is empty"):
        write_subset(damaged(sample_file, tmp_path, blank), tmp_path / "out.hdf5", 50)


def test_truncated_file(sample_file, tmp_path):
    path = tmp_path / "cut.hdf5"
    path.write_bytes(sample_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.hdf5 cannot be read as HDF5"):
        write_subset(path, tmp_path / "out.hdf5", 50)


def test_interrupted_subset_resumes_and_another_is_refused(sample_file, tmp_path, monkeypatch):
    write_subset(sample_file, tmp_path / "straight.hdf5", 60)
    monkeypatch.setattr(writing, "_BLOCK_BYTES", 100_000)
    add_to_journal, calls = writing.add_to_journal, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 10:
            raise KeyboardInterrupt
        add_to_journal(*arguments)

    monkeypatch.setattr(writing, "add_to_journal", stop)
    with pytest.raises(KeyboardInterrupt):
        write_subset(sample_file, tmp_path / "out.hdf5", 60)
    with pytest.raises(ValueError, match=r"begun from other data or with other options"):
        write_subset(sample_file, tmp_path / "out.hdf5", 60, seed=1)
    write_subset(sample_file, tmp_path / "out.hdf5", 60)
    with h5py.File(tmp_path / "out.hdf5") as out, h5py.File(tmp_path / "straight.hdf5") as straight:
        for split, group in straight.items():
            for name, column in group.items():
                np.testing.assert_array_equal(out[split][name][:], column[:])


def test_command(sample_file, tmp_path):
    def run(*options):
        arguments = ["data", "subset", str(sample_file), "--out", *map(str, options)]
        result = CliRunner().invoke(app, arguments)
        assert "Traceback" not in result.output
        return result.exit_code, result.output

    out = tmp_path / "out.hdf5"
    code, output = run(out, "--specimens", 50)
    assert code == 0
    assert "50 specimens (2 MB)" in output
    code, output = run(out, "--specimens", 60)
    assert code == 1
    assert "out.hdf5 exists. Use --force" in output
    assert run(out, "--specimens", 60, "--force")[0] == 0
    code, output = run(tmp_path / "other.hdf5", "--specimens", 5000)
    assert code == 1
    assert "holds 400 specimens, so 5000 cannot be chosen" in output
    code, output = run(sample_file, "--specimens", 50, "--force")
    assert code == 1
    assert "is read" in output
