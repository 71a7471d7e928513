"""Files of this test are tiny, and written in blocks of a few rows."""

import errno
import json
import os
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from projects.bioscan_clip.data_tools import partial, writing
from projects.bioscan_clip.data_tools.writing import SplitSource, write_file

LENGTHS = {"train": 50, "nothing": 0, "test": 13}
LAYOUTS = ("rows", "variable-length")


def contents(split):
    """Return the columns and photos of a split, other ones for each split."""
    rng = np.random.default_rng(len(split))
    rows = LENGTHS[split]
    columns = {
        "species": np.array([b"Musca no%d" % row for row in range(rows)], dtype="S12"),
        "features": rng.random((rows, 4)).astype(np.float32),
        "tokens": rng.integers(0, 99, (rows, 20)),
    }
    return columns, [rng.integers(0, 256, n, dtype=np.uint8) for n in rng.integers(1, 300, rows)]


def source_of(split, disturb=lambda rows: None):
    columns, photos = contents(split)

    def read_photos(rows):
        disturb(rows)
        return photos[rows]

    return SplitSource(
        LENGTHS[split],
        {name: (values.dtype, values.shape[1:]) for name, values in columns.items()},
        lambda rows: {name: values[rows] for name, values in columns.items()},
        np.array([len(photo) for photo in photos], dtype=np.int64),
        read_photos,
    )


def write(path, layout="rows", identity="from here", disturb=lambda rows: None, **options):
    sources = {split: source_of(split, disturb) for split in LENGTHS}
    write_file(path, sources, identity=identity, layout=layout, **options)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def digest(path):
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(writing, "_BLOCK_BYTES", 2000)


@pytest.fixture
def undisturbed(tmp_path):
    path = tmp_path / "undisturbed" / "file.hdf5"
    write(path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_holds_what_it_was_given(tmp_path, layout):
    path = tmp_path / "new" / "file.hdf5"
    write(path, layout)
    assert names_in(path.parent) == ["file.hdf5"]
    longest = max(len(photo) for split in LENGTHS for photo in contents(split)[1])
    with h5py.File(path) as file:
        assert set(file) == set(LENGTHS)
        for split, rows in LENGTHS.items():
            columns, photos = contents(split)
            group = file[split]
            assert set(group) == {*columns, "image", "image_mask"}
            for name, values in columns.items():
                assert group[name].dtype == values.dtype
                np.testing.assert_array_equal(group[name][:], values)
            assert group["image_mask"].dtype == np.int64
            assert group["image_mask"][:].tolist() == [len(photo) for photo in photos]
            assert group["image"].shape == ((rows, longest) if layout == "rows" else (rows,))
            for row, photo in enumerate(photos):
                stored = group["image"][row]
                np.testing.assert_array_equal(stored[: len(photo)], photo)
                assert not stored[len(photo) :].any()


def test_file_without_photos(tmp_path):
    source = SplitSource(3, {"n": (np.dtype(int), ())}, lambda rows: {"n": np.arange(3)[rows]})
    write_file(tmp_path / "file.hdf5", {"keys": source}, identity="")
    with h5py.File(tmp_path / "file.hdf5") as file:
        assert list(file["keys"]) == ["n"]
        assert file["keys/n"][:].tolist() == [0, 1, 2]


def test_rows_are_contiguous(undisturbed):
    """So that a row is one run of bytes, at a place that does not change."""
    with h5py.File(undisturbed) as file:
        images = file["test/image"]
        assert images.chunks is None
        photo = contents("test")[1][5]
        place = images.id.get_offset() + 5 * images.shape[1]
    assert undisturbed.read_bytes()[place:][: len(photo)] == photo.tobytes()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    import test_writing
    from projects.bioscan_clip.data_tools import writing

    writing._BLOCK_BYTES = 2000
    calls = []

    def kill(rows):
        calls.append(rows)
        if len(calls) == {calls}:
            os.kill(os.getpid(), signal.SIGKILL)

    test_writing.write(Path(sys.argv[1]), disturb=kill)
"""


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_killed_writing_goes_on_to_the_same_bytes(tmp_path, undisturbed, calls):
    path = tmp_path / "file.hdf5"
    code = dedent(KILLED.format(folder=str(Path(__file__).parent), calls=calls))
    ended = subprocess.run([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()
    with h5py.File(f"{path}.partial") as file:  # valid at any time
        assert set(file) == set(LENGTHS)

    read = []
    write(path, disturb=read.append)
    assert digest(path) == digest(undisturbed)
    blocks = []
    write(tmp_path / "other.hdf5", disturb=blocks.append)
    assert read == blocks[calls - 1 :]
    assert names_in(tmp_path) == ["file.hdf5", "other.hdf5", "undisturbed"]


def test_kill_before_the_file_is_laid_out(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    Path(f"{path}.partial").write_bytes(b"\x89HDF")
    write(path)
    assert digest(path) == digest(undisturbed)


def test_journal_left_behind_by_a_finished_file(tmp_path, undisturbed):
    """A kill between the last two steps must not make the next file seem written already."""
    path = tmp_path / "file.hdf5"

    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, disturb=stop)
    journal = Path(f"{path}.partial.json")
    noted = json.loads(journal.read_text())
    journal.write_text(json.dumps(noted | {"rows": sum(LENGTHS.values())}))
    Path(f"{path}.partial").unlink()
    write(path)
    assert digest(path) == digest(undisturbed)


def fail(number):
    def disturb(rows):
        if rows.start > 0:
            raise OSError(number, os.strerror(number))

    return disturb


@pytest.mark.parametrize("layout", LAYOUTS)
def test_disk_that_fills(tmp_path, layout):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"disk filled while .*file\.hdf5\.partial.*Make room"):
        write(path, layout, disturb=fail(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    write(path, layout)
    write(tmp_path / "straight.hdf5", layout)
    assert digest(path) == digest(tmp_path / "straight.hdf5")
    assert names_in(tmp_path) == ["file.hdf5", "straight.hdf5"]


def test_other_errors_are_passed_on(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path / "file.hdf5", disturb=fail(errno.EIO))
    assert names_in(tmp_path) == ["file.hdf5.partial", "file.hdf5.partial.json"]


def test_too_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))
    with pytest.raises(OSError, match=r"takes 3\d,\d{3} bytes more, but its disk has 1,234 free"):
        write(tmp_path / "file.hdf5")
    assert names_in(tmp_path) == []


def test_room_that_the_partial_file_takes_is_not_asked_for_again(tmp_path, monkeypatch):
    path = tmp_path / "file.hdf5"
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(path, disturb=lambda rows: fail(errno.EIO)(rows) if rows.start > 30 else None)
    taken = Path(f"{path}.partial").stat().st_blocks * 512
    assert taken > 10_000
    free = SimpleNamespace(free=40_000 - taken)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda _: free)
    write(path)


@pytest.mark.parametrize(
    "other", [{"identity": "from elsewhere"}, {"layout": "variable-length"}], ids=str
)
def test_file_begun_from_something_else(tmp_path, undisturbed, other):
    path = tmp_path / "file.hdf5"
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(path, disturb=fail(errno.EIO))
    before = digest(Path(f"{path}.partial"))
    with pytest.raises(ValueError, match=r"begun from other data.*delete file\.hdf5\.partial"):
        write(path, **other)
    assert digest(Path(f"{path}.partial")) == before
    write(path)
    assert digest(path) == digest(undisturbed)


def test_two_at_a_time(tmp_path):
    path = tmp_path / "file.hdf5"

    def write_too(rows):
        with pytest.raises(ValueError, match=r"\.partial is being written by another process"):
            write(path)

    write(path, disturb=write_too)
    assert names_in(tmp_path) == ["file.hdf5"]


def test_old_file_stays_until_the_end(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"old")
    seen = []
    write(path, disturb=lambda rows: seen.append(path.read_bytes()))
    assert set(seen) == {b"old"}
    assert digest(path) == digest(undisturbed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_check_sees_the_complete_file_first(tmp_path, layout):
    path = tmp_path / "file.hdf5"

    def refuse(written):
        with h5py.File(written) as file:
            assert file["test/image_mask"][-1] == len(contents("test")[1][-1])
        raise RuntimeError("not good")

    with pytest.raises(RuntimeError, match="not good"):
        write(path, layout, check=refuse)
    assert not path.exists()
    write(path, layout, check=lambda written: None)
    assert names_in(tmp_path) == ["file.hdf5"]


def test_photo_of_another_length_than_promised(tmp_path):
    source = source_of("test")
    source.photo_lengths[7] += 1
    with pytest.raises(ValueError, match=r"Split test, row 7: the photo has \d+ bytes, not"):
        write_file(tmp_path / "file.hdf5", {"test": source}, identity="")


def test_text_that_is_too_long_is_not_cut(tmp_path):
    source = SplitSource(
        2, {"name": (np.dtype("S3"), ())}, lambda rows: {"name": np.array([b"abc", b"abcd"])[rows]}
    )
    with pytest.raises(TypeError, match="S4"):
        write_file(tmp_path / "file.hdf5", {"test": source}, identity="")
