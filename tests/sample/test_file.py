import os
import signal
from io import BytesIO
from multiprocessing import get_context

import h5py
import numpy as np
import pytest
from PIL import Image

from projects.bioscan_clip.data_tools import processes as workers
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, RANKS, SPLITS_1M
from projects.bioscan_clip.sample import file as sample
from projects.bioscan_clip.sample.file import write_sample

SMALL = {"n_species": 12, "n_specimens": 180}
INTEGERS = {
    "image_mask": (),
    "language_tokens_input_ids": (20,),
    "language_tokens_token_type_ids": (20,),
    "language_tokens_attention_mask": (20,),
}
TEXTS = (*RANKS, "barcode", "uri", "sampleid", "processid", "image_file")


@pytest.fixture(scope="module")
def file(sample_file):
    with h5py.File(sample_file) as opened:
        yield opened


def test_every_split_has_every_column(file):
    assert set(file) == set(SPLITS_1M)
    for group in file.values():
        rows = len(group["species"])
        assert rows > 0
        assert set(group) == {"image", *INTEGERS, *TEXTS}
        assert group["image"].dtype == np.uint8
        for name, shape in INTEGERS.items():
            assert group[name].dtype == np.int64
            assert group[name].shape == (rows, *shape)
        for name in TEXTS:
            assert group[name].dtype.kind == "S"
            assert group[name].shape == (rows,)


def test_rows_are_as_wide_as_the_longest_photo(file):
    widths = {group["image"].shape[1] for group in file.values()}
    longest = max(group["image_mask"][:].max() for group in file.values())
    assert widths == {longest}


@pytest.mark.parametrize("split", ["all_keys", "no_split_and_seen_train", "val_unseen"])
def test_naive_code_can_read_a_row(file, split):
    group = file[split]
    for row in (0, len(group["image"]) - 1):
        padded = group["image"][row].astype(np.uint8)
        length = group["image_mask"][row]
        assert min(Image.open(BytesIO(padded[:length].tobytes())).size) == 256
        assert not padded[length:].any()
        assert set(group["barcode"][row].decode()) <= set("ACGTN")
        assert group["species"][row].decode()


def test_a_specimen_is_the_same_in_every_split(file):
    """Photos, labels and identifiers stay together where splits overlap."""
    keys, union = file["seen_keys"], file["all_keys"]
    position = {name: row for row, name in enumerate(union["sampleid"][:])}
    rows = [position[name] for name in keys["sampleid"][:]]
    for column in keys:
        np.testing.assert_array_equal(keys[column][:], union[column][:][rows], err_msg=column)


def test_training_never_sees_an_unseen_species(file):
    trained = set(file["no_split_and_seen_train"]["species"][:]) - {NOT_CLASSIFIED}
    for split in ("val_unseen", "test_unseen"):
        assert not trained & set(file[split]["species"][:])
        assert set(file[split]["species"][:]) <= set(file[f"{split}_keys"]["species"][:])


def test_bytes_depend_on_the_seed_alone(tmp_path):
    contents = []
    for name, seed, processes in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        write_sample(tmp_path / name, **SMALL, seed=seed, processes=processes)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def kill_itself(looks, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_ends_in_a_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    """As the kernel kills one for want of memory."""
    path = tmp_path / "sample.hdf5"
    path.write_bytes(b"old")
    monkeypatch.setattr(sample, "draw_photo", kill_itself)
    fork = get_context("fork")  # finds this module
    monkeypatch.setattr(workers, "get_context", lambda _: fork)
    with pytest.raises(OSError, match="A process that drew photos was killed"):
        write_sample(path, **SMALL, processes=1)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [
        ("sample.hdf5", b"old")
    ]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((11, 4000), "at least 12 species, but got 11"),
        ((12, 179), "12 species needs at least 180 specimens"),
    ],
)
def test_too_small_a_file_is_refused(tmp_path, sizes, message):
    path = tmp_path / "folder" / "sample.hdf5"
    with pytest.raises(ValueError, match=message):
        write_sample(path, *sizes)
    assert not path.parent.exists()
