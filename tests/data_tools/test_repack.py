import errno
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.data_tools import writing
from projects.bioscan_clip.data_tools.repack import repack
from projects.bioscan_clip.datasets.hdf5 import Column

SPLITS = {"all_keys": 70, "val_seen": 0, "val_unseen": 33}
WIDTH = 400


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(writing, "_BLOCK_BYTES", 10_000)


def expected_columns(split):
    rng = np.random.default_rng(len(split))
    rows = SPLITS[split]
    features = rng.random((rows, 7)).astype(np.float32)
    features[::5] = np.nan
    return {
        "species": np.array([b"Apis mellifera", b"not_classified"])[rng.integers(0, 2, rows)],
        "uri": np.array([b"BOLD:%07d" % row for row in range(rows)], dtype="S12"),
        "image_features": features,
        "somebody's own": rng.integers(0, 9, (rows, 2, 3), dtype=np.int16),
        "is_good": rng.random(rows) < 0.5,
    }


def expected_photos(split):
    rng = np.random.default_rng(len(split) + 100)
    lengths = rng.integers(0, 300, SPLITS[split])
    return [rng.integers(0, 256, length, dtype=np.uint8) for length in lengths]


def fill(images, split):
    for row, photo in enumerate(expected_photos(split)):
        images[row] = np.pad(photo, (0, WIDTH - len(photo)))


@pytest.fixture
def source(tmp_path):
    """What a source may be, with chunks that do not divide the number of rows."""
    path = tmp_path / "source.hdf5"
    with h5py.File(path, "w") as file:
        for split, rows in SPLITS.items():
            group = file.create_group(split)
            for name, values in expected_columns(split).items():
                group[name] = values
            group["image_mask"] = np.array([len(p) for p in expected_photos(split)], dtype=np.int32)
            shape = {"shape": (rows, WIDTH), "maxshape": (None, WIDTH)}
            images = group.create_dataset("image", **shape, dtype="u1", chunks=(9, 150))
            fill(images, split)
    return path


def check_copy(path):
    longest = max(len(photo) for split in SPLITS for photo in expected_photos(split))
    with h5py.File(path) as file:
        assert set(file) == set(SPLITS)
        for split, rows in SPLITS.items():
            columns = expected_columns(split)
            assert set(file[split]) == {*columns, "image", "image_mask"}
            for name, values in columns.items():
                assert file[split][name].dtype == values.dtype
                np.testing.assert_array_equal(file[split][name][:], values)
            images = file[split]["image"]
            assert images.shape == (rows, longest)
            assert images.chunks is None
            for row, photo in enumerate(expected_photos(split)):
                assert file[split]["image_mask"][row] == len(photo)
                np.testing.assert_array_equal(images[row][: len(photo)], photo)


def test_everything_is_kept(source, tmp_path):
    repack(source, tmp_path / "out.hdf5")
    check_copy(tmp_path / "out.hdf5")


def test_each_chunk_is_read_once(source, tmp_path, monkeypatch):
    read, blocks = Column.read, []
    monkeypatch.setattr(Column, "read", lambda self, rows: blocks.append(rows) or read(self, rows))
    repack(source, tmp_path / "out.hdf5")
    firsts = {rows[0] for rows in blocks}
    assert len(firsts) > 2
    assert all(first % 9 == 0 for first in firsts)


def test_text_of_variable_length_becomes_fixed(tmp_path):
    names = [b"Aedes", "Æshna grandis".encode(), b""]
    with h5py.File(tmp_path / "in.hdf5", "w") as file:
        file.create_dataset("val_seen/species", data=names, dtype=h5py.string_dtype())
    repack(tmp_path / "in.hdf5", tmp_path / "out.hdf5")
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert file["val_seen/species"].dtype == "S14"
        assert file["val_seen/species"][:].tolist() == names


def test_interrupted_repacking_resumes(source, tmp_path, monkeypatch):
    add_to_journal, calls = writing.add_to_journal, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        add_to_journal(*arguments)

    monkeypatch.setattr(writing, "add_to_journal", full)
    with pytest.raises(OSError, match="The disk filled"):
        repack(source, tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()
    repack(source, tmp_path / "out.hdf5")
    check_copy(tmp_path / "out.hdf5")


def test_changed_source_is_not_mixed_with_the_old_one(source, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Column, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        repack(source, tmp_path / "out.hdf5")
    monkeypatch.undo()
    with h5py.File(source, "r+") as file:
        file["all_keys/uri"][0] = b"BOLD:other"
    with pytest.raises(ValueError, match=r"begun from other data"):
        repack(source, tmp_path / "out.hdf5")


def test_command(source, tmp_path):
    out = tmp_path / "out.hdf5"
    result = CliRunner().invoke(app, ["data", "repack", str(source), "--out", str(out)])
    assert result.exit_code == 0
    assert "every value is as in the source" in result.output
    longest = max(len(photo) for split in SPLITS for photo in expected_photos(split))
    assert f"takes {longest} bytes, not {9 * 3 * 150:,}" in result.output


def test_command_replaces_nothing(source, tmp_path):
    before, there = source.read_bytes(), tmp_path / "there.hdf5"
    there.write_text("mine")
    (tmp_path / "link.hdf5").symlink_to(source)
    for out, words, options in [
        (source, "is read", ["--force"]),
        (tmp_path / "link.hdf5", "is read", ["--force"]),
        (there, "exists. Use --force", []),
    ]:
        arguments = ["data", "repack", str(source), "--out", str(out), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert words in result.output
    assert source.read_bytes() == before
    assert there.read_text() == "mine"


def damage(path: Path, kind: str) -> str:
    """Damage a file and return what the message says."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return r"source\.hdf5 cannot be read as HDF5"
    with h5py.File(path, "r+") as file:
        group = file["val_unseen"]
        if kind == "short column":
            del group["uri"]
            group["uri"] = np.array([b"BOLD:1"])
            return r"split val_unseen: the columns differ in their number of rows \(.*uri 1"
        if kind == "no lengths":
            del group["image_mask"]
            return "split val_unseen has `image`, but lacks `image_mask`"
        if kind == "wrong length":
            group["image_mask"][4] = -1
            return r"split val_unseen, row 4: `image_mask` says -1 bytes, but a row .* holds"
        file["notes"] = np.zeros(3)
        return "notes is not a group"


@pytest.mark.parametrize(
    "kind", ["truncated", "short column", "no lengths", "wrong length", "no group"]
)
def test_damaged_source(source, tmp_path, kind):
    message = damage(source, kind)
    with pytest.raises(ValueError, match=message):
        repack(source, tmp_path / "out.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["source.hdf5"]


def test_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data file .*missing\.hdf5"):
        repack(tmp_path / "missing.hdf5", tmp_path / "out.hdf5")
