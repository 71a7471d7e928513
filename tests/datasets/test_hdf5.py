import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.hdf5 import (
    Column,
    HDF5Split,
    PhotoStorage,
    open_file,
    own_member,
    photo_storage,
)


def test_truncated_file(sample_file, tmp_path):
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(Path(sample_file).read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.hdf5 cannot be read as HDF5.*may be incomplete"):
        open_file(cut)


def test_file_that_another_program_writes(tmp_path):
    path = tmp_path / "growing.hdf5"
    writer = (
        "import h5py, sys\n"
        f"file = h5py.File({str(path)!r}, 'w')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().strip() == b"open"
        with pytest.raises(ValueError, match=r"growing\.hdf5 is being written by another program"):
            open_file(path)
        process.stdin.close()


def test_file_whose_writing_was_cut_off(tmp_path):
    (tmp_path / "new.hdf5.partial").touch()
    with pytest.raises(FileNotFoundError, match=r"only new\.hdf5\.partial: .* Run the command"):
        open_file(tmp_path / "new.hdf5")


@pytest.fixture
def referring(tmp_path):
    """A file whose columns lie elsewhere."""
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.arange(4)
    (tmp_path / "raw").write_bytes(b"private.")
    layout = h5py.VirtualLayout((4,), np.int64)
    layout[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "x", (4,))
    with h5py.File(tmp_path / "referring.hdf5", "w") as file:
        group = file.create_group("val_seen")
        group["own"] = np.arange(4)
        group["soft"] = h5py.SoftLink("/val_seen/own")
        group["dangling"] = h5py.SoftLink("/val_seen/nothing")
        group["linked"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/x")
        group["lost"] = h5py.ExternalLink("nowhere.hdf5", "/x")
        group.create_dataset("external", (4,), "u2", external=[(str(tmp_path / "raw"), 0, 8)])
        group.create_virtual_dataset("virtual", layout)
    with h5py.File(tmp_path / "referring.hdf5") as file:
        yield file["val_seen"]


@pytest.mark.parametrize("name", ["own", "soft"])
def test_members_of_the_file_itself(referring, name):
    assert own_member(referring, name)[:].tolist() == [0, 1, 2, 3]
    assert own_member(referring.file, "val_seen") == referring


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dangling", "it is a link to nothing"),
        ("linked", r"is a link to another file, .*other\.hdf5"),
        ("lost", r"is a link to another file, nowhere\.hdf5"),
        ("external", "keeps its values in other files"),
        ("virtual", "keeps its values in other files"),
    ],
)
def test_members_elsewhere_are_refused(referring, name, reason):
    with pytest.raises(ValueError, match=rf"referring\.hdf5, val_seen/{name} .*{reason}"):
        own_member(referring, name)


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/no"), h5py.ExternalLink("no.hdf5", "/x")], ids=str
)
@pytest.mark.parametrize("place", ["val_seen", "val_seen/order", "val_seen/barcode"])
def test_split_refuses_links_that_lead_nowhere_or_elsewhere(sample_file, tmp_path, link, place):
    path = tmp_path / "linked.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "r+") as file:
        del file[place]
        file[place] = link
    with pytest.raises(ValueError, match=rf"linked\.hdf5, {place} .* (again|link)"):
        HDF5Split(path, "val_seen", ("barcode",))


def storage_of(path, **options) -> PhotoStorage:
    with h5py.File(path, "w") as file:
        return photo_storage(file.create_dataset("image", dtype=np.uint8, **options))


def test_storage_as_the_published_builder_of_5m_leaves_it(tmp_path):
    """h5py's own choice of chunks for a resizable data set, as the published builder makes it."""
    options = {"shape": (0, 29598), "maxshape": (None, 29598)}
    storage = storage_of(tmp_path / "5m.hdf5", **options)
    assert storage == PhotoStorage(29598, 947_200)
    assert storage.is_expensive


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shape": (5, 100)}, PhotoStorage(100, 100)),
        ({"shape": (5, 100), "chunks": (1, 100)}, PhotoStorage(100, 100)),
        ({"shape": (5, 100), "chunks": (2, 60)}, PhotoStorage(100, 240)),
    ],
)
def test_cheap_storage(tmp_path, options, expected):
    assert storage_of(tmp_path / "cheap.hdf5", **options) == expected
    assert not expected.is_expensive


ROWS = 37
RNG = np.random.default_rng(0)
COLUMNS = {
    "codes": RNG.integers(-9, 9, ROWS),
    "big_endian": RNG.integers(0, 9, (ROWS, 3)).astype(">i4"),
    "features": RNG.normal(size=(ROWS, 2, 5)).astype(np.float32),
    "names": np.array([b"x" * (row % 7) for row in range(ROWS)]),
    "bytes": RNG.integers(0, 255, (ROWS, 50), dtype=np.uint8),
}
LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "compressed": {"compression": "gzip"},
}


@pytest.fixture(scope="module", params=[0, 512], ids=["", "user block"])
def path(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("columns") / "columns.hdf5"
    with h5py.File(path, "w", userblock_size=request.param) as file:
        for name, values in COLUMNS.items():
            for layout, options in LAYOUTS.items():
                file.create_dataset(f"{layout}/{name}", data=values, **options)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=20))
def test_rows_in_any_order(path, layout, name, rows):
    rows = np.array([*rows, *range(5, 9)], dtype=np.int64)  # a run, too
    with h5py.File(path) as file, path.open("rb") as raw:
        values = Column(file[f"{layout}/{name}"], raw).read(rows)
        assert values.dtype == file[f"{layout}/{name}"].dtype
    assert (values == COLUMNS[name][rows]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_starts_of_rows(path, layout):
    rows, lengths = np.array([30, 2, 3, 36]), np.array([50, 1, 17, 0])
    with h5py.File(path) as file, path.open("rb") as raw:
        starts = Column(file[f"{layout}/bytes"], raw).read_starts(rows, lengths)
    expected = [COLUMNS["bytes"][row, :n] for row, n in zip(rows, lengths, strict=True)]
    assert [start.tolist() for start in starts] == [row.tolist() for row in expected]


def test_contiguous_rows_do_not_pass_through_the_library(path, monkeypatch):
    """What makes them quick; the others must pass through it."""
    with h5py.File(path) as file, path.open("rb") as raw:
        plain, packed = (
            Column(file[f"{name}/bytes"], raw) for name in ("contiguous", "compressed")
        )
        monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("through h5py"))
        assert plain.read(np.array([3])).shape == (1, 50)
        with pytest.raises(pytest.fail.Exception):
            packed.read(np.array([3]))


def test_file_that_was_cut_off_meanwhile(path, tmp_path):
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(path.read_bytes())
    with h5py.File(cut) as file, cut.open("rb") as raw:
        column = Column(file["contiguous/bytes"], raw)
        with cut.open("r+b") as target:
            target.truncate(file["contiguous/bytes"].id.get_offset() + 100)
        assert column.read(np.array([0])).shape == (1, 50)
        with pytest.raises(OSError, match="ends before row 9 of /contiguous/bytes"):
            column.read(np.array([9]))
