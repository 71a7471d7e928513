import json
import os
import shutil
import signal

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.data_tools.checks import photos
from projects.bioscan_clip.data_tools.verify import verify
from projects.bioscan_clip.datasets.schema import RANKS
from tests.data_tools.damages import (
    DAMAGE,
    resample,
    scramble_photo,
    set_text,
    shorten_barcode,
    steer_the_terminal,
)


@pytest.fixture
def damaged(sample_file, tmp_path):
    """A function that damages a copy of the sample and returns its path."""

    def damage(change):
        path = tmp_path / "damaged.hdf5"
        shutil.copy(sample_file, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return damage


def test_the_sample_is_without_fault(sample_file):
    report = verify(sample_file, photos=None, processes=2)
    assert report.findings == []
    with h5py.File(sample_file) as file:
        rows = {split: len(file[split]["species"]) for split in file}
    subjects = ("layout", "labels", "splits", "barcodes", "tokens", "photos")
    for split, number in rows.items():
        assert report.splits[split].checked == dict.fromkeys(subjects, number)


@pytest.mark.parametrize(
    ("change", "severity", "subject", "split", "rows", "words"),
    DAMAGE,
    ids=[f"{case[0].__name__}-{case[2]}" for case in DAMAGE],
)
def test_damage_is_found(damaged, change, severity, subject, split, rows, words):
    photos = None if subject == "photos" else 0
    findings = verify(damaged(change), photos, processes=1).findings
    matching = [finding for finding in findings if words in finding.sentence]
    assert {(each.severity, each.subject) for each in matching} == {(severity, subject)}
    here = next(finding for finding in matching if finding.split == split)
    assert here.remedy
    assert rows is None or list(here.rows) == rows


def only_message(report):
    """The sentence of the only finding of a report."""
    assert len(report.findings) == 1, report.findings
    return report.findings[0].sentence


def rows_of(file, *splits):
    """Columns of several splits, one below the other."""
    names = list(file[splits[0]])
    return {name: np.concatenate([file[split][name][:] for split in splits]) for name in names}


@pytest.fixture
def published_5m(sample_file, tmp_path):
    """A file like the published 5M one: keys that are trained on, chunked photos, text objects."""
    train, unseen = ("train_seen",), ("val_unseen_keys", "test_unseen_keys")
    parts = {
        "no_split_and_seen_train": ("no_split", *train),
        "seen_keys": train,
        "unseen_keys": unseen,
        "all_keys": (*train, *unseen),
        "val_seen": ("val_seen",),
        "val_unseen": ("val_unseen",),
        "test_seen": ("test_seen",),
        "test_unseen": ("test_unseen",),
        "other_heldout": ("seen_keys",),
    }
    path = tmp_path / "5m.hdf5"
    with h5py.File(sample_file) as source, h5py.File(path, "w") as file:
        for split, sources in parts.items():
            group = file.create_group(split)
            for name, values in rows_of(source, *sources).items():
                if name == "image":
                    shape = (None, values.shape[1])
                    group.create_dataset(name, data=values, maxshape=shape, chunks=(32, 1850))
                elif name in RANKS:
                    text = [value.decode() for value in values]
                    group.create_dataset(name, data=text, dtype=h5py.string_dtype())
                else:
                    group.create_dataset("dna_bin" if name == "uri" else name, data=values)
    return path


def test_a_5m_file_is_without_fault(published_5m):
    report = verify(published_5m, photos=5, processes=1)
    assert (report.layout, report.findings) == ("BIOSCAN-5M", [])
    assert report.splits["val_seen"].checked["photos"] == 5


def test_5m_keys_must_be_trained_on(published_5m):
    with h5py.File(published_5m, "r+") as file:
        keys, training = file["seen_keys/sampleid"], file["no_split_and_seen_train"]
        wanted = np.flatnonzero(training["sampleid"][:] != keys[4])
        columns = {name: training[name][:][wanted] for name in training}
        del file["no_split_and_seen_train"]
        for name, values in columns.items():
            text = values.dtype == object
            file.create_dataset(
                f"no_split_and_seen_train/{name}",
                data=values,
                dtype=h5py.string_dtype() if text else None,
            )
    findings = verify(published_5m, photos=0).findings
    assert [(finding.split, finding.rows) for finding in findings] == [("seen_keys", (4,))]
    assert "not in no_split_and_seen_train" in findings[0].sentence


def test_single_species_may_be_apart_from_no_split(damaged):
    """As in the published partition of BIOSCAN-1M."""

    def take_out(file):
        single = file["single_species/sampleid"][:]
        for split in ("no_split", "no_split_and_seen_train"):
            others = ~np.isin(file[split]["sampleid"][:], single)
            resample(file[split], np.flatnonzero(others))

    assert verify(damaged(take_out), photos=0).findings == []


def test_a_file_of_features_is_only_warned_about(damaged):
    def drop_photos(file):
        for split in file:
            rows = len(file[split]["species"])
            file[split]["image_features"] = np.zeros((rows, 512), np.float32)
            del file[split]["image"], file[split]["image_mask"]

    report = verify(damaged(drop_photos))
    assert {finding.severity for finding in report.findings} == {"warning"}
    assert all("lacks the column image" in finding.sentence for finding in report.findings)
    assert "photos" not in report.splits["val_seen"].checked


def test_names_that_the_tokenizer_cannot_tell_apart_are_no_fault(damaged):
    def change_case(file):
        set_text(file["val_seen"], "species", 0, file["val_seen/species"][0].upper())

    sentences = [each.sentence for each in verify(damaged(change_case), photos=0).findings]
    assert not [sentence for sentence in sentences if "tokens" in sentence]


def test_a_file_without_splits_is_an_error(tmp_path):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2]
    assert "holds no split" in only_message(verify(path))


@pytest.mark.parametrize("name", ["val_seen", "val_seen/genus", "val_seen/image"])
def test_damaged_records_are_a_finding(damaged, name):
    """HDF5's own record of a group or a dataset is lost."""
    path = damaged(lambda file: None)
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file[name].id).addr
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(64))
    errors = [each.sentence for each in verify(path, photos=0).findings if each.severity == "error"]
    assert f"{name} cannot be opened" in " ".join(errors)


def test_names_do_not_steer_the_terminal(damaged, run):
    def rename(file):
        steer_the_terminal(file)
        file.move("val_unseen", "\x1b[2Jval")

    output = run(damaged(rename), "--photos", 0).output
    assert "\x1b" not in output
    assert "\\x1b[2Jval" in output


def test_a_file_of_a_published_name_is_compared_with_it(damaged):
    path = damaged(lambda file: None)
    path = path.rename(path.with_name("BioScan_data_in_splits.hdf5"))
    with h5py.File(path) as file:
        keys = len(file["all_keys/species"])
    assert only_message(verify(path, photos=0)) == (
        "it is not the published BioScan_data_in_splits.hdf5, but has "
        f"{keys} of 21,118 specimens in all_keys, 0.0 of about 79.7 GB."
    )


@pytest.fixture
def run():
    def invoke(*arguments):
        return CliRunner().invoke(app, ["data", "verify", *map(str, arguments)])

    return invoke


def test_command_on_a_sound_file(run, sample_file):
    result = run(sample_file, "--photos", 2, "--processes", 1)
    assert result.exit_code == 0
    assert "Nothing wrong" in result.output


def test_command_reports_what_is_wrong(run, damaged, tmp_path):
    out = tmp_path / "new" / "report.json"
    result = run(damaged(scramble_photo), "--all", "--processes", 2, "--json", out)
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert "val_seen, row 3: the photo does not decode" in text
    assert "1 error in" in text

    report = json.loads(out.read_text())
    assert (report["errors"], report["warnings"], report["layout"]) == (1, 0, "BIOSCAN-1M")
    assert report["findings"][0]["rows"] == [3]
    with h5py.File(report["file"]) as file:
        assert {name: split["rows"] for name, split in report["splits"].items()} == {
            name: len(file[name]["species"]) for name in file
        }


def test_command_with_warnings_only_succeeds(run, damaged):
    result = run(damaged(shorten_barcode), "--photos", 0)
    assert result.exit_code == 0
    assert "1 warning in" in " ".join(result.output.split())


def test_command_on_half_a_file(run, sample_file, tmp_path):
    path = tmp_path / "half.hdf5"
    path.write_bytes(sample_file.read_bytes()[: sample_file.stat().st_size // 2])
    result = run(path)
    assert result.exit_code == 1
    assert "cannot be read as HDF5" in result.output
    assert "Traceback" not in result.output


def test_report_replaces_nothing(run, damaged, tmp_path):
    path, there = damaged(shorten_barcode), tmp_path / "there.json"
    there.write_text("mine")
    (tmp_path / "link").symlink_to(path)
    before = path.read_bytes()
    for out, words in [
        (path, "is read"),
        (tmp_path / "link", "is read"),
        (there, "exists. Use --force"),
        (tmp_path, "is a folder"),
        ("/dev/null", "is no regular file"),
    ]:
        result = run(path, "--photos", 0, "--json", out)
        assert result.exit_code == 1
        assert words in result.output
        assert "splits of" not in result.output  # so it was before the work
    assert path.read_bytes() == before
    assert run(path, "--photos", 0, "--json", there, "--force").exit_code == 0
    assert json.loads(there.read_text())["warnings"] == 1


def die(path, block):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told(sample_file, monkeypatch):
    monkeypatch.setattr(photos, "decode_block", die)
    with pytest.raises(OSError, match="was killed, perhaps because memory ran out"):
        verify(sample_file, photos=200, processes=2)
