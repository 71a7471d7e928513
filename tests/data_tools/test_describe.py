import io
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.data_tools.describe import (
    WHOLE_FILE,
    barcode_lengths,
    describe,
    missing_labels,
    most_frequent,
    photo_sizes,
    species_table,
    taxon_counts,
)
from projects.bioscan_clip.data_tools.describe_report import (
    storage_sentences,
    text_tables,
    write_page,
)
from projects.bioscan_clip.datasets.schema import RANKS

UNKNOWN = b"not_classified"


@pytest.fixture(scope="module")
def described(sample_file):
    return describe(sample_file)


@pytest.fixture(scope="module")
def columns(sample_file):
    """Every column but photos of every split, as lists of Python values."""
    with h5py.File(sample_file) as file:
        return {
            split: {name: group[name][:].tolist() for name in group if name != "image"}
            for split, group in file.items()
        }


@pytest.fixture(scope="module")
def specimens(columns):
    """Each specimen once, by its sampleid."""
    rows = {}
    for split in columns.values():
        for row in zip(*split.values(), strict=True):
            values = dict(zip(split, row, strict=True))
            rows[values["sampleid"]] = values
    return list(rows.values())


def test_counts_of_taxa(described, columns, specimens):
    counts = taxon_counts(described)
    assert list(counts.index[:2]) == ["all_keys", "seen_keys"]  # in the order of the schema
    assert set(counts.index) == {*columns, WHOLE_FILE}
    for split, split_columns in columns.items():
        assert counts.loc[split, "specimens"] == len(split_columns["species"])
        for rank in RANKS:
            assert counts.loc[split, rank] == len(set(split_columns[rank]) - {UNKNOWN})
        assert counts.loc[split, "BIN"] == len(set(split_columns["uri"]))
    assert counts.loc[WHOLE_FILE, "specimens"] == len(specimens) == 400


def test_seen_and_unseen_species(described, columns):
    counts = taxon_counts(described)
    seen = set(columns["train_seen"]["species"])
    unseen = {*columns["val_unseen"]["species"], *columns["test_unseen"]["species"]}
    assert counts.loc["all_keys", ["seen", "unseen"]].tolist() == [len(seen), len(unseen)]
    assert counts.loc["test_unseen", "seen"] == 0
    single = set(columns["single_species"]["species"])
    status = Counter(species_table(described)["status"])
    assert status == {"seen": len(seen), "unseen": len(unseen), "pretraining only": len(single)}


def test_specimens_of_a_species_are_counted_once(described, specimens):
    expected = Counter(specimen["species"] for specimen in specimens)
    del expected[UNKNOWN]
    assert species_table(described)["specimens"].tolist() == sorted(expected.values())[::-1]


def test_most_frequent_taxa(described, specimens):
    expected = Counter(specimen["family"].decode() for specimen in specimens)
    del expected[UNKNOWN.decode()]
    found = most_frequent(described, "family", 3)
    assert found.tolist() == [count for _, count in expected.most_common(3)]
    assert all(expected[name] == count for name, count in found.items())


def test_share_of_missing_labels(described, columns):
    shares = missing_labels(described)
    for split, split_columns in columns.items():
        for rank in RANKS:
            names = split_columns[rank]
            assert shares.loc[split, rank] == pytest.approx(names.count(UNKNOWN) / len(names))


def test_barcode_lengths(described, columns):
    lengths = barcode_lengths(described)
    for split, split_columns in columns.items():
        barcodes = split_columns["barcode"]
        bases = [len(barcode) for barcode in barcodes]
        expected = [min(bases), np.median(bases), max(bases)]
        assert lengths.loc[split, ["min", "median", "max"]].tolist() == expected
        with_n = np.mean([b"N" in barcode for barcode in barcodes])
        assert lengths.loc[split, "with_n"] == pytest.approx(with_n)


def test_photo_sizes(described, sample_file, columns):
    sizes = photo_sizes(described)
    with h5py.File(sample_file) as file:
        group = file["val_seen"]
        jpegs = [
            group["image"][row, :length].tobytes() for row, length in enumerate(group["image_mask"])
        ]
    pixels = [Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs]
    lengths = [len(jpeg) for jpeg in jpegs]
    assert sizes.loc["val_seen", ["min", "median", "max"]].tolist() == [
        min(lengths),
        np.median(lengths),
        max(lengths),
    ]
    (narrow, wide), (low, high) = ((min(each), max(each)) for each in zip(*pixels, strict=True))
    assert sizes.loc["val_seen", "pixels"] == f"{narrow}-{wide} x {low}-{high}"


def test_chunks_that_make_rows_expensive_are_told(sample_file, tmp_path):
    path = tmp_path / "chunked.hdf5"
    shutil.copy(sample_file, path)
    with h5py.File(path, "r+") as file:
        images = file["val_seen/image"][:]
        del file["val_seen/image"]
        file["val_seen"].create_dataset("image", data=images, chunks=(len(images), 100))
        width = images.shape[1]
    touched = -(-width // 100) * 100 * len(images)
    sentences = storage_sentences(describe(path).storage, path)
    assert f"Photos lie in chunks in val_seen: reading one of {width:,} bytes" in sentences[1]
    assert f"touches {touched:,}" in sentences[1]
    assert f"`bioscan-clip data repack {path}" in sentences[-1]


def test_rows_are_not_called_expensive(described):
    sentences = storage_sentences(described.storage, described.path)
    assert len(sentences) == 1
    assert "repack" not in sentences[0]


class Page(HTMLParser):
    """Text, and whatever a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.text, self.fetched = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        if self.get_starttag_text() and not self.get_starttag_text().startswith("<script"):
            self.text += data


def page_of(path, out):
    write_page(describe(path), out)
    return out.read_text("utf-8")


def test_page_stands_alone(sample_file, tmp_path, described):
    html = page_of(sample_file, tmp_path / "new" / "page.html")
    page = Page(html)
    assert page.fetched == []
    assert html.count("plotly.js v") == 1  # the library is there, once
    assert html.count("Plotly.newPlot(") == 5
    for title, table in text_tables(described).items():
        assert title in page.text
        assert all(cell in page.text for cell in table.to_numpy().ravel().tolist())


def test_page_shows_odd_names_as_text(sample_file, tmp_path):
    path = tmp_path / "a<b>&.hdf5"
    shutil.copy(sample_file, path)
    name = "</script><script>alert(1)</script>"
    with h5py.File(path, "r+") as file:
        file.move("val_seen", "<b>val")
        for split in file:
            rows = len(file[split]["order"])
            del file[split]["order"]
            file[split]["order"] = np.full(rows, name.encode())
    html = page_of(path, tmp_path / "page.html")
    assert "<script>alert" not in html
    assert "<b>val" not in html
    assert "a&lt;b&gt;&amp;.hdf5" in html


def empty(file):
    for split in file:
        for name in list(file[split]):
            values = file[split][name][:0]
            del file[split][name]
            file[split][name] = values


def empty_one_split(file):
    for name in list(file["val_seen"]):
        values = file["val_seen"][name][:0]
        del file["val_seen"][name]
        file["val_seen"][name] = values


def keep_labels_only(file):
    for split in file:
        for name in set(file[split]) - set(RANKS):
            del file[split][name]


def keep_barcodes_only(file):
    for split in file:
        for name in set(file[split]) - {"barcode"}:
            del file[split][name]


def replace_photos_by_features(file):
    for split in file:
        del file[split]["image"], file[split]["image_mask"]
        file[split]["image_features"] = np.zeros((len(file[split]["genus"]), 512), np.float32)


def forget_every_name(file):
    for split in file:
        for rank in RANKS:
            file[split][rank][...] = UNKNOWN


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (empty, None),
        (empty_one_split, None),
        (keep_labels_only, "Bases per barcode"),
        (keep_barcodes_only, "without a label"),
        (replace_photos_by_features, "kB per JPEG"),
        (forget_every_name, None),
    ],
)
def test_what_a_file_lacks_is_left_out(sample_file, tmp_path, change, missing):
    path = tmp_path / "lacking.hdf5"
    shutil.copy(sample_file, path)
    with h5py.File(path, "r+") as file:
        change(file)
    result = CliRunner().invoke(
        app, ["data", "describe", str(path), "--html", str(tmp_path / "page.html")]
    )
    assert result.exit_code == 0, result.output
    assert "no_split_and_seen_train" in result.output
    assert "nan" not in re.findall(r"[a-z]+", result.output)
    assert (tmp_path / "page.html").is_file()
    text = " ".join(result.output.split())
    assert missing is None or missing not in text
    assert "Specimens (n)" in text


def test_command_on_something_else(tmp_path):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2]
    result = CliRunner().invoke(app, ["data", "describe", str(path)])
    assert result.exit_code == 1
    assert "holds no split" in result.output
    assert "Traceback" not in result.output


def test_page_replaces_nothing(sample_file, tmp_path):
    path, page = tmp_path / "data.hdf5", tmp_path / "page.html"
    shutil.copy(sample_file, path)
    page.write_text("mine")
    for out, words in ((path, "is read"), (page, "exists. Use --force")):
        result = CliRunner().invoke(app, ["data", "describe", str(path), "--html", str(out)])
        assert result.exit_code == 1
        assert words in result.output
        assert "Specimens" not in result.output  # so it was before the work
    assert path.read_bytes() == sample_file.read_bytes()
    assert page.read_text() == "mine"


@pytest.mark.parametrize("name", ["val_seen", "val_seen/genus"])
def test_damaged_records(sample_file, tmp_path, name):
    path = tmp_path / "data.hdf5"
    shutil.copy(sample_file, path)
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file[name].id).addr
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(64))
    result = CliRunner().invoke(app, ["data", "describe", str(path)])
    assert "Traceback" not in result.output
    assert not result.exception or isinstance(result.exception, SystemExit)
