import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from projects.bioscan_clip.datasets.files import open_file
from projects.bioscan_clip.datasets.storage import PhotoStorage, photo_storage


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
