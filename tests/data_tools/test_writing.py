"""Files of this test are tiny, and written in blocks of a few rows."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from projects.bioscan_clip.data_tools import writing
from projects.bioscan_clip.data_tools.writing import SplitSource, write_file

LENGTHS = {"train": 50, "nothing": 0, "test": 13}


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


def write(path, identity="from here", disturb=lambda rows: None):
    sources = {split: source_of(split, disturb) for split in LENGTHS}
    write_file(path, sources, identity=identity)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def values_in(path):
    with h5py.File(path) as file:
        return {
            f"{split}/{name}": (column.dtype, column.shape, column[:].tobytes())
            for split, group in file.items()
            for name, column in group.items()
        }


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(writing, "_BLOCK_BYTES", 2000)


@pytest.fixture
def undisturbed(tmp_path):
    path = tmp_path / "undisturbed" / "file.hdf5"
    write(path)
    return path


def test_file_holds_what_it_was_given(undisturbed):
    assert names_in(undisturbed.parent) == ["file.hdf5"]
    longest = max(len(photo) for split in LENGTHS for photo in contents(split)[1])
    with h5py.File(undisturbed) as file:
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
            assert group["image"].shape == (rows, longest)
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
    from projects.bioscan_clip.data_tools import writing
    from tests.data_tools import test_writing

    writing._BLOCK_BYTES = 2000
    calls = []

    def kill(rows):
        calls.append(rows)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    test_writing.write(Path(sys.argv[1]), disturb=kill)
"""


def kill_writing(path, calls):
    """Write until the process is killed when it asks for photos that many times."""
    ended = subprocess.run(
        [sys.executable, "-c", dedent(KILLED), str(path), str(calls)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()


@pytest.mark.parametrize("calls", [1, 9])
def test_killed_writing_resumes_and_ends_with_the_same_values(tmp_path, undisturbed, calls):
    path = tmp_path / "file.hdf5"
    kill_writing(path, calls)
    assert values_in(f"{path}.partial").keys() == values_in(undisturbed).keys()  # it is HDF5

    read, blocks = [], []
    write(path, disturb=read.append)
    write(tmp_path / "other.hdf5", disturb=blocks.append)
    assert values_in(path) == values_in(undisturbed)
    assert read == blocks[calls - 1 :]
    assert names_in(tmp_path) == ["file.hdf5", "other.hdf5", "undisturbed"]


def test_a_stretch_that_was_lost_is_written_again(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    kill_writing(path, 9)
    with h5py.File(f"{path}.partial") as file:
        place = file["train/image"].id.get_offset()
    with Path(f"{path}.partial").open("r+b") as file:
        file.seek(place + 500)
        file.write(bytes(3000))
    write(path)
    assert values_in(path) == values_in(undisturbed)


def test_a_disk_that_does_not_keep_what_it_is_given(tmp_path, monkeypatch):
    fsync = os.fsync

    def lose(handle):
        fsync(handle)
        os.pwrite(handle, bytes(9000), os.fstat(handle).st_size - 9000)

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(OSError, match=r"split \w+, rows \d+ to \d+: the disk did not keep"):
        write(tmp_path / "file.hdf5")
    assert not (tmp_path / "file.hdf5").exists()


def stop(rows):
    raise KeyboardInterrupt


def begin(path):
    with pytest.raises(KeyboardInterrupt):
        write(path, disturb=stop)
    return Path(f"{path}.partial"), Path(f"{path}.partial.json")


def test_kill_before_the_file_is_laid_out(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    Path(f"{path}.partial").write_bytes(b"\x89HDF")
    write(path)
    assert values_in(path) == values_in(undisturbed)


def test_journal_without_a_file(tmp_path, undisturbed):
    """A kill between the last two steps must not make the next file seem written already."""
    path = tmp_path / "file.hdf5"
    partial, journal = begin(path)
    kill_writing(tmp_path / "more.hdf5", 9)
    journal.write_bytes(Path(f"{tmp_path}/more.hdf5.partial.json").read_bytes())
    partial.unlink()
    write(path)
    assert values_in(path) == values_in(undisturbed)


@pytest.mark.parametrize("line", ["nonsense", "{}", "[[1]]", "[null]", "7"])
def test_damaged_journal(tmp_path, line):
    path = tmp_path / "file.hdf5"
    journal = begin(path)[1]
    with journal.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"partial\.json, line 2 is damaged\. Delete .* to start"):
        write(path)


def test_journal_that_was_cut_off(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    kill_writing(path, 4)
    with Path(f"{path}.partial.json").open("a") as file:
        file.write('["train", 10')
    write(path)
    assert values_in(path) == values_in(undisturbed)


def test_damaged_partial_file(tmp_path):
    path = tmp_path / "file.hdf5"
    partial = begin(path)[0]
    partial.write_bytes(partial.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"file\.hdf5\.partial is damaged .*Delete it to start"):
        write(path)


def fail(number):
    def disturb(rows):
        if rows.start > 0:
            raise OSError(number, os.strerror(number))

    return disturb


def test_disk_that_fills(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"disk filled while .*file\.hdf5\.partial.*Make room"):
        write(path, disturb=fail(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    write(path)
    assert values_in(path) == values_in(undisturbed)


def test_other_errors_are_passed_on(tmp_path):
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(tmp_path / "file.hdf5", disturb=fail(errno.EIO))
    assert names_in(tmp_path) == ["file.hdf5.partial", "file.hdf5.partial.json"]


def test_too_little_room(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))
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
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: free)
    write(path)


def test_file_begun_from_something_else(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    begin(path)
    with pytest.raises(ValueError, match=r"begun from other data.*delete file\.hdf5\.partial"):
        write(path, identity="from elsewhere")
    write(path)
    assert values_in(path) == values_in(undisturbed)


def test_two_at_a_time(tmp_path):
    path, ended = tmp_path / "file.hdf5", []
    code = "import sys; from pathlib import Path; from tests.data_tools import test_writing as t; "

    def write_too(rows):
        if not ended:  # in another process, since HDF5 lets one open a file twice
            command = [sys.executable, "-c", f"{code} t.write(Path(sys.argv[1]))", str(path)]
            root = Path(__file__).parents[2]
            ended.append(subprocess.run(command, cwd=root, capture_output=True, text=True))

    write(path, disturb=write_too)
    assert ended[0].returncode == 1
    assert "file.hdf5.partial is being written by another process" in ended[0].stderr
    assert names_in(tmp_path) == ["file.hdf5"]


def test_old_file_stays_until_the_end(tmp_path, undisturbed):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"old")
    seen = []
    write(path, disturb=lambda rows: seen.append(path.read_bytes()))
    assert set(seen) == {b"old"}
    assert values_in(path) == values_in(undisturbed)


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
