import errno
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.data_tools import writing
from projects.bioscan_clip.data_tools.reading import split_sources
from projects.bioscan_clip.data_tools.repack import compare, repack

SPLITS = {"all_keys": 70, "val_seen": 0, "val_unseen": 33}
WIDTH = 400
LAYOUTS = ("rows", "variable-length")


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
        images[row] = photo if images.ndim == 1 else np.pad(photo, (0, WIDTH - len(photo)))


def write_source(path, storage):
    """Write what a source may be, with chunks that do not divide the number of rows."""
    with h5py.File(path, "w") as file:
        for split, rows in SPLITS.items():
            group = file.create_group(split)
            for name, values in expected_columns(split).items():
                group[name] = values
            group["image_mask"] = np.array([len(p) for p in expected_photos(split)], dtype=np.int32)
            if storage == "variable-length":
                images = group.create_dataset("image", (rows,), h5py.vlen_dtype(np.uint8))
            else:
                shape = {"shape": (rows, WIDTH), "maxshape": (None, WIDTH)}
                images = group.create_dataset("image", **shape, dtype="u1", chunks=(9, 150))
            fill(images, split)


@pytest.fixture(params=["chunks", "variable-length"])
def source(request, tmp_path):
    path = tmp_path / "source.hdf5"
    write_source(path, request.param)
    return path


@pytest.fixture
def chunked(tmp_path):
    path = tmp_path / "chunked.hdf5"
    write_source(path, "chunks")
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_is_kept(source, tmp_path, layout):
    out = tmp_path / "out.hdf5"
    repack(source, out, layout)
    longest = max(len(photo) for split in SPLITS for photo in expected_photos(split))
    with h5py.File(out) as file:
        assert set(file) == set(SPLITS)
        for split, rows in SPLITS.items():
            columns = expected_columns(split)
            assert set(file[split]) == {*columns, "image", "image_mask"}
            for name, values in columns.items():
                assert file[split][name].dtype == values.dtype
                np.testing.assert_array_equal(file[split][name][:], values)
            images = file[split]["image"]
            assert images.shape == ((rows, longest) if layout == "rows" else (rows,))
            assert images.chunks is None
            for row, photo in enumerate(expected_photos(split)):
                assert file[split]["image_mask"][row] == len(photo)
                np.testing.assert_array_equal(images[row][: len(photo)], photo)


def test_each_chunk_is_read_once(chunked, tmp_path, monkeypatch):
    with split_sources(chunked) as sources:
        blocks = list(sources["all_keys"].blocks())
    assert blocks[0].start == 0
    assert blocks[-1].stop == 70
    assert len(blocks) > 2
    for before, after in pairwise(blocks):
        assert before.stop == after.start
        assert after.start % 9 == 0


def test_text_of_variable_length_becomes_fixed(tmp_path):
    names = [b"Aedes", "Æshna grandis".encode(), b""]
    with h5py.File(tmp_path / "in.hdf5", "w") as file:
        file.create_dataset("val_seen/species", data=names, dtype=h5py.string_dtype())
    repack(tmp_path / "in.hdf5", tmp_path / "out.hdf5")
    with h5py.File(tmp_path / "out.hdf5") as file:
        assert file["val_seen/species"].dtype == "S14"
        assert file["val_seen/species"][:].tolist() == names


def test_interrupted_repacking_goes_on(chunked, tmp_path, monkeypatch):
    repack(chunked, tmp_path / "straight.hdf5")
    out = tmp_path / "out.hdf5"
    write_at, calls = writing.write_at, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_at(*arguments)

    monkeypatch.setattr(writing, "write_at", full)
    with pytest.raises(OSError, match="The disk filled"):
        repack(chunked, out)
    assert not out.exists()
    calls[:] = [None] * 20
    repack(chunked, out)
    assert out.read_bytes() == (tmp_path / "straight.hdf5").read_bytes()


def test_changed_source_is_not_mixed_with_the_old_one(chunked, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "write_at", stop)
    with pytest.raises(KeyboardInterrupt):
        repack(chunked, tmp_path / "out.hdf5")
    monkeypatch.undo()
    with h5py.File(chunked, "r+") as file:
        file["all_keys/uri"][0] = b"BOLD:other"
    with pytest.raises(ValueError, match=r"begun from other data"):
        repack(chunked, tmp_path / "out.hdf5")


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("uri", 69, b"x"), ("image_features", 3, 0.5), ("image", 40, 7), ("image_mask", 11, 299)],
)
def test_a_difference_is_found(chunked, tmp_path, column, row, value):
    out = tmp_path / "out.hdf5"
    repack(chunked, out)
    with h5py.File(out, "r+") as file:
        file["all_keys"][column][row] = value
    place = "image" if column == "image_mask" else column
    with (
        split_sources(chunked) as sources,
        split_sources(out) as copies,
        pytest.raises(OSError, match=rf"split all_keys, {place}, row {row} is not as in the sour"),
    ):
        compare(sources, copies, out)


def test_wrong_bytes_do_not_reach_the_final_name(chunked, tmp_path, monkeypatch):
    """As a disk that does not keep what it is given."""
    write_at = writing.write_at

    def forget(handle, values, place):
        write_at(handle, np.zeros_like(values), place)

    monkeypatch.setattr(writing, "write_at", forget)
    result = CliRunner().invoke(
        app, ["data", "repack", str(chunked), "--out", str(tmp_path / "out.hdf5")]
    )
    assert result.exit_code == 1
    message = " ".join(result.output.split())
    assert "all_keys, image_features, row 0 is not as in the source" in message
    assert "Delete out.hdf5.partial" in message
    assert not (tmp_path / "out.hdf5").exists()


def test_command(chunked, tmp_path):
    out = tmp_path / "out.hdf5"
    result = CliRunner().invoke(
        app, ["data", "repack", str(chunked), "--out", str(out), "--storage", "variable-length"]
    )
    assert result.exit_code == 0
    assert "chunks of (9, 150)" in result.output
    assert "4.0 kB" in result.output or "4.1 kB" in result.output  # 9 rows of 3 chunks
    assert "variable length" in result.output
    assert "as in the source" in " ".join(result.output.split())


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


def test_photo_shorter_than_stated(tmp_path):
    """Only reading it shows how long a photo of variable length is."""
    path = tmp_path / "source.hdf5"
    write_source(path, "variable-length")
    with h5py.File(path, "r+") as file:
        file["val_unseen/image_mask"][2] = 1000
    with pytest.raises(ValueError, match=r"Split val_unseen, row 2: the photo has .*, not 1000"):
        repack(path, tmp_path / "out.hdf5")
    assert not (tmp_path / "out.hdf5").exists()


def test_source_is_not_overwritten(chunked, tmp_path):
    (tmp_path / "link.hdf5").symlink_to(chunked)
    for out in (chunked, tmp_path / "link.hdf5"):
        with pytest.raises(ValueError, match=r"itself, which is read\. Give another path"):
            repack(chunked, out)


def test_no_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data file .*missing\.hdf5"):
        repack(tmp_path / "missing.hdf5", tmp_path / "out.hdf5")
