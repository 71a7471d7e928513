"""Files are built from published-like folders whose specimens come from a sample file.

What was built is compared with that file, and what was killed with what was not.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from projects.bioscan_clip.data_tools import build as builder
from projects.bioscan_clip.data_tools import published
from projects.bioscan_clip.data_tools.build import build
from projects.bioscan_clip.data_tools.verify import verify
from projects.bioscan_clip.datasets.names import SAMPLE_VOCABULARY, TaxonTokenizer
from projects.bioscan_clip.datasets.schema import RANKS
from tests.data_tools.published_layout import (
    TO_5M,
    specimens_of,
    write_1m,
    write_5m,
)

COPIES = 5


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return str(SAMPLE_VOCABULARY.parent)


@pytest.fixture(scope="module")
def root_1m(tmp_path_factory, sample_file) -> Path:
    """2,000 specimens as BIOSCAN-1M is published."""
    root = tmp_path_factory.mktemp("published")
    write_1m(root, *specimens_of(sample_file, COPIES))
    return root


@pytest.fixture(scope="module")
def built_1m(root_1m, tokenizer, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "1m.hdf5"
    build("1m", root_1m, out, text_tokenizer=tokenizer)
    return out


@pytest.fixture
def small(tmp_path, sample_file):
    """A folder of 1M of a few dozen specimens, to be damaged."""
    table, photos = specimens_of(sample_file, 1)
    kept = table.groupby("split").head(4).index
    write_1m(tmp_path / "root", table.loc[kept], [photos[place] for place in kept])
    return tmp_path / "root"


def values_in(path: Path) -> dict:
    with h5py.File(path) as file:
        return {
            f"{split}/{name}": column[:].tobytes()
            for split, group in file.items()
            for name, column in group.items()
        }


def picture_of(group: h5py.Group, row: int) -> bytes:
    return group["image"][row][: group["image_mask"][row]].tobytes()


def test_1m_holds_what_was_published(sample_file, built_1m):
    with h5py.File(sample_file) as sample, h5py.File(built_1m) as built:
        assert set(built) == set(sample)
        originals = {
            identifier: (group, row)
            for group in sample.values()
            for row, identifier in enumerate(group["sampleid"][:])
        }
        for split in set(built) - {"no_split", "no_split_and_seen_train"}:
            assert len(built[split]["species"]) == COPIES * len(sample[split]["species"]), split
        alone = len(sample["no_split"]["species"]) - len(sample["single_species"]["species"])
        assert len(built["no_split"]["species"]) == COPIES * alone
        for split in ("train_seen", "val_unseen", "no_split"):
            group = built[split]
            for row in (0, len(group["species"]) // 2, -1):
                row = range(len(group["species"]))[row]
                original, there = originals[group["sampleid"][row].rpartition(b"-")[0]]
                for column in ("order", "family", "genus", "species", "barcode", "uri"):
                    assert group[column][row] == original[column][there], column
                text = b" ".join(group[rank][row] for rank in RANKS).decode()
                for column, values in TaxonTokenizer(SAMPLE_VOCABULARY)([text]).items():
                    assert group[column][row].tolist() == values[0].tolist()
                assert picture_of(group, row) == picture_of(original, there)
                assert group["image_file"][row] == group["processid"][row] + b".jpg"


def test_built_file_is_sound(built_1m):
    report = verify(built_1m, photos=20, processes=1)
    assert report.count("error") == 0


SMALL_BLOCKS = """
from projects.bioscan_clip.data_tools import build
build._BLOCK = 100
from projects.bioscan_clip.cli import app
app()
"""


def start_build(root: Path, out: Path, tokenizer: str) -> subprocess.Popen:
    arguments = ["--root", str(root), "--out", str(out), "--text-tokenizer", tokenizer]
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_BLOCKS, "data", "build", "--dataset", "1m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(process: subprocess.Popen, condition) -> None:
    """Kill a process as soon as something holds."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def lines_of(journal: Path) -> int:
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def test_killed_build_resumes_and_ends_with_the_same_values(
    root_1m, built_1m, tokenizer, tmp_path, monkeypatch
):
    out, journal = tmp_path / "1m.hdf5", tmp_path / "1m.hdf5.pictures.json"
    with start_build(root_1m, out, tokenizer) as process:
        kill_when(process, lambda: lines_of(journal) > 5)
    assert lines_of(journal) < 20
    assert list(tmp_path.iterdir()) == [journal]  # so there is no second copy of the pictures
    with journal.open("ab") as notes:
        notes.write(b"[1, 2")  # as a power cut may leave it

    add, checked = builder.add_to_journal, []
    monkeypatch.setattr(builder, "add_to_journal", lambda *step: checked.append(step) or add(*step))
    built = build("1m", root_1m, out, text_tokenizer=tokenizer)
    assert built.pictures == 2000
    assert sum(len(step) for _, step in checked) <= 1500
    assert values_in(out) == values_in(built_1m)
    assert list(tmp_path.iterdir()) == [out]


def die(path: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_build_that_left_pictures_out_resumes(small, tokenizer, tmp_path, monkeypatch):
    next(small.rglob("*.jpg")).unlink()
    monkeypatch.setattr(builder, "write_file", lambda *_, **__: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    monkeypatch.undo()
    monkeypatch.setattr(builder, "_check_room", lambda *_: pytest.fail("room is there already"))
    assert build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer).n_left_out == 1
    assert {path.name for path in tmp_path.glob("1m*")} == {"1m.hdf5", "1m.left_out.csv"}


def test_a_killed_process_ends_the_build(small, tokenizer, tmp_path, monkeypatch):
    """As the kernel does when memory runs out."""
    monkeypatch.setattr(builder, "check_picture", die)
    with pytest.raises(OSError, match=r"was killed, perhaps because memory ran out\. Run the same"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


def test_barcodes_belong_to_their_specimens_in_any_order(small, tokenizer, tmp_path, monkeypatch):
    """A table that the reader merges may be in another order than the file."""
    load = published._load_1m
    monkeypatch.setattr(published, "_load_1m", lambda path: load(path)[::-1].reset_index(drop=True))
    build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    table = pd.read_csv(next(small.glob("bioscan1m/*.tsv")), sep="\t", index_col="sampleid")
    with h5py.File(tmp_path / "1m.hdf5") as file:
        for group in file.values():
            for identifier, barcode in zip(group["sampleid"], group["barcode"], strict=True):
                assert barcode.decode() == table.loc[identifier.decode(), "nucraw"]


def test_a_specimen_in_two_lists_is_an_error(small, tokenizer, tmp_path):
    lists = small / "bioscan1m" / "CLIBD_partitioning"
    first = (lists / "val_seen.txt").read_text().split()[0]
    with (lists / "train_seen.txt").open("a") as file:
        file.write(f"{first}\n")
    with pytest.raises(ValueError, match=rf"sampleid {first} .* more than one list \(.*val"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


@pytest.mark.parametrize("column", ["image_file", "processid"])
def test_an_empty_cell_is_named(small, tokenizer, tmp_path, column):
    metadata = next(small.glob("bioscan1m/*.tsv"))
    table = pd.read_csv(metadata, sep="\t", dtype=str, keep_default_na=False)
    table.loc[3, column] = ""
    table.to_csv(metadata, sep="\t", index=False)
    with pytest.raises(ValueError, match=rf"\.tsv, line 5: there is no {column}\."):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


def test_5m_has_the_splits_of_the_published_file(sample_file, tokenizer, tmp_path):
    table, photos = specimens_of(sample_file, 1)
    write_5m(tmp_path / "root", table, photos)
    out = tmp_path / "5m.hdf5"
    build("5m", tmp_path / "root", out, text_tokenizer=tokenizer)
    split = table.set_index("sampleid")["split"].map(TO_5M)
    expected = {
        "all_keys": {"train", "key_unseen"},
        "seen_keys": {"train"},
        "unseen_keys": {"key_unseen"},
        "no_split_and_seen_train": {"pretrain", "train"},
        "val_seen": {"val"},
        "test_seen": {"test"},
        "val_unseen": {"val_unseen"},
        "test_unseen": {"test_unseen"},
        "other_heldout": {"other_heldout"},
    }
    with h5py.File(out) as built:
        assert set(built) == set(expected)
        for name, parts in expected.items():
            ids = [each.decode() for each in built[name]["sampleid"][:]]
            assert ids == [each for each in split.index if split[each] in parts], name
        group = built["no_split_and_seen_train"]
        unknown = (group["species"][:] == b"not_classified").mean()
        assert 0 < unknown < 1
        row = int(np.flatnonzero(group["species"][:] != b"not_classified")[0])
        original = table.set_index("sampleid").loc[group["sampleid"][row].decode()]
        assert group["species"][row].decode() == original["species"]
        assert group["barcode"][row].decode() == original["barcode"]
        assert group["dna_bin"][row].decode() == original["uri"]


def test_missing_and_broken_pictures_are_left_out_and_listed(small, tokenizer, tmp_path):
    pictures = sorted(small.rglob("*.jpg"))
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:500])
    pictures[2].write_bytes(b"<html>404</html>")
    built = build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    with built.left_out.open(newline="") as file:
        listed = {Path(row["picture"]): row for row in csv.DictReader(file)}
    assert set(listed) == set(pictures[:3])
    assert listed[pictures[0]]["reason"] == "is missing"
    assert all("does not decode" in listed[path]["reason"] for path in pictures[1:3])
    assert built.n_left_out == 3
    assert built.pictures == len(pictures) - 3
    lost = {row["sampleid"].encode() for row in listed.values()}
    with h5py.File(tmp_path / "1m.hdf5") as file:
        for name, group in file.items():
            assert not lost & set(group["sampleid"][:]), name
            assert len(group["image"]) == built.specimens[name] == len(group["barcode"])


def test_names_beyond_ascii_are_kept_as_utf8(small, tokenizer, tmp_path):
    metadata = next(small.glob("bioscan1m/*.tsv"))
    text = metadata.read_text()
    header, first, *_ = text.splitlines()
    place = header.split("\t").index("family")
    family = first.split("\t")[place]
    metadata.write_text(text.replace(family, "Müllerïdae"), encoding="utf-8")
    build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    with h5py.File(tmp_path / "1m.hdf5") as file:
        families = {name for group in file.values() for name in group["family"][:]}
    assert "Müllerïdae".encode() in families


def test_nothing_of_use_is_an_error(small, tokenizer, tmp_path):
    shutil.rmtree(small / "bioscan1m" / "images" / "cropped_256")
    (small / "bioscan1m" / "images" / "cropped_256").mkdir()
    with pytest.raises(ValueError, match=r"None of the \d+ pictures in .*cropped_256 is of use"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    assert not list(tmp_path.glob("1m*"))  # so that the next call looks for pictures again


@pytest.mark.parametrize(
    "missing", ["*.tsv", "CLIBD_partitioning/val_seen.txt", "images/cropped_256"]
)
def test_what_is_not_there_is_named(small, tokenizer, tmp_path, missing):
    path = next((small / "bioscan1m").glob(missing))
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=rf"There is no {path}"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


def test_metadata_that_are_not_as_published(small, tokenizer, tmp_path):
    metadata = next(small.glob("bioscan1m/*.tsv"))
    metadata.write_text(metadata.read_text().replace("processid", "process"))
    with pytest.raises(ValueError, match=r"\.tsv is not as published: .*processid"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


def test_unknown_tokenizer(small, tmp_path):
    with pytest.raises(OSError, match=r"'no/such' cannot be loaded: .* local folder"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer="no/such")


def test_unfinished_build_of_other_pictures_is_refused(small, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "write_file", lambda *_, **__: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    monkeypatch.undo()
    shutil.copytree(small / "bioscan1m/images/cropped_256", small / "bioscan1m/images/original")
    with pytest.raises(ValueError, match=r"Repeat the command that began it .*or delete 1m"):
        build("1m", small, tmp_path / "1m.hdf5", "original", text_tokenizer=tokenizer)


def test_a_picture_that_changed_after_it_was_checked(small, tokenizer, tmp_path, monkeypatch):
    picture = next(small.rglob("*.jpg"))
    write_file = builder.write_file

    def change(*arguments, **options):
        picture.write_bytes(picture.read_bytes() + b"more")
        write_file(*arguments, **options)

    monkeypatch.setattr(builder, "write_file", change)
    with pytest.raises(ValueError, match=rf"{picture} has changed since it was checked\. Delete"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)


def test_files_are_replaced_only_with_force(small, tokenizer, tmp_path):
    out = tmp_path / "1m.hdf5"
    for path in (out, tmp_path / "1m.left_out.csv"):
        path.write_bytes(b"mine")
        with pytest.raises(FileExistsError, match=f"{path} exists"):
            build("1m", small, out, text_tokenizer=tokenizer)
        path.unlink()
    metadata = next(small.glob("bioscan1m/*.tsv"))
    with pytest.raises(ValueError, match="is read"):
        build("1m", small, metadata, text_tokenizer=tokenizer, force=True)


def test_disk_without_room_for_the_pictures(small, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(OSError, match=r"take about [\d,]+ bytes, but the disk of .* has 1 free"):
        build("1m", small, tmp_path / "1m.hdf5", text_tokenizer=tokenizer)
    assert not list(tmp_path.glob("1m.hdf5*"))
