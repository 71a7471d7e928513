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


def write_column(group, name, values):
    del group[name]
    group.create_dataset(name, data=np.asarray(values))


def set_text(group, name, row, text):
    values = group[name][:].astype("S700" if name == "barcode" else "S40")
    values[row] = text
    write_column(group, name, values)


def resample(group, rows):
    """Keep rows of a split, in that order; a row may come twice."""
    for name in list(group):
        write_column(group, name, group[name][:][rows])


def copy_row(file, source, target):
    """Append the first row of one split to another."""
    for name in list(file[target]):
        values = [file[target][name][:], file[source][name][:1]]
        width = max(part.shape[-1] for part in values) if name == "image" else None
        if width:
            values = [np.pad(part, [(0, 0), (0, width - part.shape[1])]) for part in values]
        write_column(file[target], name, np.concatenate(values))


# Each takes an open file and damages one thing in it.


def drop_column(file):
    del file["val_seen/barcode"]


def drop_unread_column(file):
    del file["val_seen/processid"]


def turn_labels_into_numbers(file):
    write_column(file["val_seen"], "genus", np.zeros(len(file["val_seen/genus"])))


def widen_tokens(file):
    group = file["val_seen"]
    write_column(group, "language_tokens_input_ids", np.ones((len(group["genus"]), 21), int))


def shorten_column(file):
    write_column(file["val_seen"], "species", file["val_seen/species"][:-1])


def empty_used_split(file):
    resample(file["val_seen"], [])


def empty_unused_split(file):
    resample(file["single_species"], [])


def misspell_split(file):
    file.move("val_seen", "val_sen")


def lose_photo(file):
    file["val_seen/image"][3] = 0
    file["val_seen/image_mask"][3] = 0


def overstate_length(file):
    file["val_seen/image_mask"][3] = file["val_seen/image"].shape[1] + 1


def scramble_photo(file):
    file["val_seen/image"][3, :100] = 7


def cut_photo(file):
    length = file["val_seen/image_mask"][3]
    file["val_seen/image"][3, length // 2 :] = 0
    file["val_seen/image_mask"][3] = length // 2


def fill_padding(file):
    shortest = int(np.argmin(file["val_seen/image_mask"]))
    file["val_seen/image"][shortest, -1] = 1


def move_species_to_another_genus(file):
    genera = np.unique(file["val_seen/genus"])
    group = file["val_seen"]
    set_text(group, "genus", 0, genera[genera != group["genus"][0]][0])


def move_genus_to_another_family(file):
    families = np.unique(file["val_seen/family"])
    group = file["val_seen"]
    set_text(group, "family", 0, families[families != group["family"][0]][0])


def forget_genus(file):
    set_text(file["val_seen"], "genus", 3, b"not_classified")


def write_accent(file):
    set_text(file["val_seen"], "species", 3, "Aedes müller".encode())


def write_latin1(file):
    set_text(file["val_seen"], "species", 3, "Aedes müller".encode("latin-1"))


def repeat_specimen(file):
    rows = len(file["val_seen/genus"])
    resample(file["val_seen"], [*range(rows), 0])


def forget_id(file):
    set_text(file["val_seen"], "sampleid", 3, b"")


def leak_query_into_training(file):
    copy_row(file, "val_seen", "train_seen")
    copy_row(file, "val_seen", "no_split_and_seen_train")


def lose_key(file):
    resample(file["all_keys"], range(1, len(file["all_keys/genus"])))


def add_foreign_key(file):
    copy_row(file, "test_seen", "all_keys")


def train_on_unseen_species(file):
    group = file["no_split_and_seen_train"]
    set_text(group, "species", 3, file["test_unseen/species"][0])


def query_species_never_met(file):
    set_text(file["val_seen"], "species", 3, b"Nemo nusquam")


def empty_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"")


def misspell_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"ACGX" * 160)


def write_barcode_in_lower_case(file):
    set_text(file["val_seen"], "barcode", 3, b"acgt" * 160)


def shorten_barcode(file):
    set_text(file["val_seen"], "barcode", 3, b"ACGT" * 49)


def hide_token(file):
    file["val_seen/language_tokens_attention_mask"][3, 1] = 0


def drop_cls(file):
    file["val_seen/language_tokens_input_ids"][3, 0] = 500


def drop_sep(file):
    tokens = file["val_seen/language_tokens_input_ids"]
    tokens[3] = np.where(tokens[3] == 102, 500, tokens[3])


def give_one_row_other_tokens(file):
    file["val_seen/language_tokens_input_ids"][3, 1] += 1


def give_two_names_the_same_tokens(file):
    """In every split, so that each name still has one sequence of tokens."""
    first, second = np.unique(file["test_unseen/species"])[:2]
    row = np.flatnonzero(file["test_unseen/species"][:] == first)[0]
    tokens = file["test_unseen/language_tokens_input_ids"][row]
    for split in file:
        ids = file[split]["language_tokens_input_ids"]
        mask = file[split]["language_tokens_attention_mask"]
        for place in np.flatnonzero(file[split]["species"][:] == second):
            ids[place] = tokens
            mask[place] = tokens != 0


DAMAGE = [
    (drop_column, "error", "layout", "val_seen", [], "lacks the column barcode"),
    (drop_unread_column, "warning", "layout", "val_seen", [], "lacks the column processid"),
    (turn_labels_into_numbers, "error", "layout", "val_seen", [], "genus should be bytes"),
    (widen_tokens, "error", "layout", "val_seen", [], "should be integers, shape (N, 20)"),
    (shorten_column, "error", "layout", "val_seen", [], "differ in their number of rows"),
    (empty_used_split, "error", "layout", "val_seen", [], "holds no specimens"),
    (empty_unused_split, "warning", "layout", "single_species", [], "holds no specimens"),
    (misspell_split, "warning", "layout", "val_sen", [], "no split of the name val_sen"),
    (misspell_split, "warning", "layout", None, [], "but val_seen is not there"),
    (lose_photo, "error", "photos", "val_seen", [3], "there is no photo"),
    (overstate_length, "error", "photos", "val_seen", [3], "more than a row of image holds"),
    (scramble_photo, "error", "photos", "val_seen", [3], "does not decode"),
    (cut_photo, "error", "photos", "val_seen", [3], "does not decode"),
    (fill_padding, "warning", "photos", "val_seen", None, "bytes other than zero"),
    (move_species_to_another_genus, "error", "labels", None, [], "1 species stands in more than"),
    (move_genus_to_another_family, "warning", "labels", None, [], "1 genus stands in more than"),
    (forget_genus, "warning", "labels", "val_seen", [3], "its genus is unknown"),
    (write_accent, "warning", "labels", "val_seen", [3], "outside ASCII (such as Aedes müller)"),
    (
        write_latin1,
        "warning",
        "labels",
        "val_seen",
        [3],
        "not valid UTF-8 (such as Aedes m\\xfcller)",
    ),
    (repeat_specimen, "error", "splits", "val_seen", None, "occurred before in the same split"),
    (forget_id, "error", "splits", "val_seen", [3], "the sampleid is empty"),
    (leak_query_into_training, "error", "splits", "train_seen", None, "also in val_seen"),
    (lose_key, "error", "splits", "seen_keys", None, "not in all_keys"),
    (add_foreign_key, "error", "splits", "all_keys", None, "none of the parts of all_keys"),
    (train_on_unseen_species, "error", "splits", "test_unseen", None, "should be unseen"),
    (query_species_never_met, "warning", "splits", "val_seen", [3], "seen_keys does not have it"),
    (empty_barcode, "error", "barcodes", "val_seen", [3], "the barcode is empty"),
    (misspell_barcode, "error", "barcodes", "val_seen", [3], "neither bases nor IUPAC codes"),
    (write_barcode_in_lower_case, "warning", "barcodes", "val_seen", [3], "lower-case bases"),
    (shorten_barcode, "warning", "barcodes", "val_seen", [3], "fewer than 200 bases"),
    (hide_token, "error", "tokens", "val_seen", [3], "the attention mask is not 1"),
    (drop_cls, "error", "tokens", "val_seen", [3], "do not begin with [CLS]"),
    (drop_sep, "error", "tokens", "val_seen", [3], "have no [SEP]"),
    (give_one_row_other_tokens, "error", "tokens", None, [], "1 name has different tokens"),
    (give_two_names_the_same_tokens, "warning", "tokens", None, [], "have the same tokens"),
]


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


def make_variable_length(file):
    for split in file:
        images, lengths = file[split]["image"][:], file[split]["image_mask"][:]
        del file[split]["image"]
        column = file[split].create_dataset("image", len(images), h5py.vlen_dtype(np.uint8))
        for row, (image, length) in enumerate(zip(images, lengths, strict=True)):
            column[row] = image[:length]


def test_variable_length_photos(damaged):
    path = damaged(make_variable_length)
    assert verify(path, processes=1).findings == []
    with h5py.File(path, "r+") as file:
        file["val_seen/image_mask"][2] += 1
    assert "not the length of the array" in only_message(verify(path, processes=1))


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


def die(path, block):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told(sample_file, monkeypatch):
    monkeypatch.setattr(photos, "decode_block", die)
    with pytest.raises(OSError, match="was killed, perhaps for want of memory"):
        verify(sample_file, photos=200, processes=2)
