import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.hdf5 import Column, PhotoStorage, open_file, photo_storage


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


def storage_of(path, **options) -> PhotoStorage:
    with h5py.File(path, "w") as file:
        return photo_storage(file.create_dataset("image", dtype=np.uint8, **options))


def test_storage_as_the_published_builder_of_5m_leaves_it(tmp_path):
    """h5py's own choice of chunks for a resizable data set, as the published builder makes it."""
    options = {"shape": (0, 29598), "maxshape": (None, 29598)}
    storage = storage_of(tmp_path / "5m.hdf5", **options)
    assert storage == PhotoStorage("chunks", 29598, 947_200)
    assert storage.is_expensive


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shape": (5, 100)}, PhotoStorage("rows", 100, 100)),
        ({"shape": (5, 100), "chunks": (1, 100)}, PhotoStorage("chunks", 100, 100)),
        ({"shape": (5, 100), "chunks": (2, 60)}, PhotoStorage("chunks", 100, 240)),
    ],
)
def test_cheap_storage(tmp_path, options, expected):
    assert storage_of(tmp_path / "cheap.hdf5", **options) == expected
    assert not expected.is_expensive


def test_storage_of_variable_length(tmp_path):
    with h5py.File(tmp_path / "ragged.hdf5", "w") as file:
        images = file.create_dataset("image", (5,), dtype=h5py.vlen_dtype(np.uint8))
        assert photo_storage(images).layout == "variable-length"
        assert not photo_storage(images).is_expensive


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
        ragged = file.create_dataset("ragged", (ROWS,), dtype=h5py.vlen_dtype(np.uint8))
        for row in range(ROWS):
            ragged[row] = COLUMNS["bytes"][row, : row + 1]
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


def test_starts_of_rows_of_variable_length(path):
    rows, lengths = np.array([30, 2]), np.array([4, 99])
    with h5py.File(path) as file, path.open("rb") as raw:
        starts = Column(file["ragged"], raw).read_starts(rows, lengths)
    assert starts[0].tolist() == COLUMNS["bytes"][30, :4].tolist()
    assert starts[1].tolist() == COLUMNS["bytes"][2, :3].tolist()


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
