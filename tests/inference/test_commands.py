"""The commands from files to files, with a model that needs no training."""

import io
import json
import re
import shutil
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.inference import building, embedding, naming
from projects.bioscan_clip.inference.library import ReferenceLibrary


@dataclass
class Encoded:
    embeddings: np.ndarray
    errors: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)


class PlainModel:
    """Colours of photos and 3-mers of barcodes; counts what it is asked for."""

    dimension = 64
    modalities = ("rgb", "dna")

    def __init__(self, name="plain"):
        self.hash = name
        self.asked = 0
        self.placer = SimpleNamespace(
            prepare=lambda texts: [SimpleNamespace(text=text.upper()) for text in texts]
        )

    def encode_image(self, photos, on_error, crop, save_crops):
        self.asked += len(photos)
        for file in save_crops or ():
            file.parent.mkdir(exist_ok=True)
            file.write_text(crop)
        result = Encoded(np.full((len(photos), 64), np.nan, dtype=np.float32))
        for row, photo in enumerate(photos):
            try:
                image = Image.open(io.BytesIO(photo) if isinstance(photo, bytes) else photo)
                pixels = np.asarray(image.convert("RGB"), dtype=np.float64).reshape(-1, 3) // 64
                counts = np.bincount((pixels @ [16, 4, 1]).astype(int), minlength=64)
                result.embeddings[row] = np.sqrt(counts)
            except OSError as error:
                result.errors[row] = str(error)
        return result

    def encode_dna(self, barcodes, on_error):
        self.asked += len(barcodes)
        result = Encoded(np.full((len(barcodes), 64), np.nan, dtype=np.float32))
        for row, barcode in enumerate(barcodes):
            if not set(barcode.upper()) <= set("ACGTN"):
                result.errors[row] = "no nucleotides"
                continue
            digits = ["ACGT".find(base) for base in barcode.upper() if base in "ACGT"]
            kmers = np.convolve(digits, [1, 4, 16], "valid")
            result.embeddings[row] = np.bincount(kmers, minlength=64) - len(kmers) / 64
            if barcode.islower():
                result.notes[row] = "was in lower case"
        return result


@pytest.fixture
def model(monkeypatch, tmp_path):
    model = PlainModel()
    (tmp_path / "best.ckpt").write_text("")
    for module in (embedding, building):
        monkeypatch.setattr(module, "loaded_model", lambda _: model)
    naming._opened.cache_clear()
    return model


def invoke(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


@pytest.fixture
def run(model):
    return invoke


@pytest.fixture(scope="module")
def built(sample_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "best.ckpt").write_text("")
    labelled = [
        part
        for split in ("val_seen", "val_unseen", "test_seen", "test_unseen")
        for part in ("--calibrate-on", f"{sample_file}::{split}")
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in (embedding, building):
            patch.setattr(module, "loaded_model", lambda _: PlainModel())
        invoke(
            *("library", "build", folder / "lib", f"{sample_file}::all_keys", *labelled),
            *("--model", folder / "best.ckpt"),
        )
    return folder / "lib"


@pytest.fixture
def library(built, tmp_path):
    """A copy, which a test may change."""
    return shutil.copytree(built, tmp_path / "lib")


def test_from_a_file_to_names(run, library, tmp_path, sample_file):
    out = tmp_path / "names.csv"
    printed = run("identify", library, f"{sample_file}::test_seen", "--out", out)
    named = pd.read_csv(out, keep_default_na=False)
    counts = named["accepted_rank"].replace("", "no name").value_counts()
    for rank, count in counts.items():
        assert re.search(rf"{rank} +{count}\n", printed)
    assert (named["query"] == "both").all()
    assert named["nearest_identities"].str.split("; ").str.len().eq(5).all()
    assert not (tmp_path / "names.csv.parts").exists()
    about = json.loads((tmp_path / "names.csv.about.json").read_text())
    assert about["model_hash"] == "plain"
    assert about["precision"] == 0.95
    assert {"version", "date", "library_hash", "restrict_to"} <= set(about)
    info = run("library", "info", library)
    assert "Calibrated for:    photo" in info
    assert f"{len(ReferenceLibrary.open(library)):,} (0 removed)" in info


def test_crops_are_saved_by_the_names_of_photos(run, library, tmp_path):
    (tmp_path / "trap").mkdir()
    for name in ("moth 1.jpg", "moth 2.png"):
        Image.new("RGB", (9, 9), (200, 10, 10)).save(tmp_path / "trap" / name)
    crops = ("--save-crops", tmp_path / "crops")
    arguments = ("identify", library, tmp_path / "trap", "--out", tmp_path / "names.csv", *crops)
    assert "--crop auto" in run(*arguments, status=1)
    run(*arguments, "--crop", "auto")
    endings = sorted(file.name.split("trap_")[1] for file in (tmp_path / "crops").iterdir())
    assert endings == ["moth_1.jpg", "moth_2.png.jpg"]
    assert json.loads((tmp_path / "names.csv.about.json").read_text())["save_crops"] == str(
        crops[1]
    )


def test_a_bad_row_does_not_end_a_run(run, library, tmp_path, sample_file):
    Image.new("RGB", (9, 9), (200, 10, 10)).save(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "t.csv").write_text(
        "id,photo,barcode\n"
        f"fine,good.jpg,{'acgtt' * 40}\n"
        f"torn,bad.jpg,{'ACGTC' * 40}\n"
        "odd,good.jpg,ACGT!\n"
        "lost,missing.jpg,\n"
        "empty,,\n"
    )
    out = tmp_path / "names.jsonl"
    printed = run("identify", library, tmp_path / "t.csv", "--out", out, status=3)
    rows = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert [row["query"] for row in rows.values()] == ["both", "barcode", "photo", "", ""]
    assert rows["fine"]["error"] == ""
    assert rows["fine"]["note"] == "barcode: was in lower case"
    assert rows["torn"]["error"].startswith("photo: cannot identify image file")
    assert rows["odd"]["error"] == "barcode: no nucleotides"
    assert "No such file" in rows["lost"]["error"]
    assert rows["empty"]["error"] == "there is neither a photo nor a barcode"
    assert rows["empty"]["answer"] is None
    assert rows["empty"]["nearest_ids"] == []
    assert "4 with an error" in printed
    assert "odd: barcode: no nucleotides" in printed


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "jsonl"])
def test_every_ending_holds_the_same(run, library, tmp_path, sample_file, form):
    out = tmp_path / f"names.{form}"
    run("identify", library, f"{sample_file}::test_unseen", "--out", out, "--top-k", "2")
    read = {
        "csv": pd.read_csv,
        "tsv": lambda path: pd.read_csv(path, sep="\t"),
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }[form](out)
    reference = tmp_path / "reference.parquet"
    run("identify", library, f"{sample_file}::test_unseen", "--out", reference, "--top-k", "2")
    expected = pd.read_parquet(reference)
    assert list(read) == list(expected)
    assert read["species"].tolist() == expected["species"].tolist()
    assert read["in_library"].to_numpy() == pytest.approx(expected["in_library"], abs=1e-4)
    joined = expected["nearest_ids"].str.join("; ").tolist()
    ids = read["nearest_ids"]
    assert (ids.tolist() if form in ("csv", "tsv") else ids.str.join("; ").tolist()) == joined


def test_formats_of_other_programs(run, library, tmp_path, sample_file):
    source = f"{sample_file}::test_seen"
    table = tmp_path / "names.parquet"
    run("identify", library, source, "--out", table, "--top-k", "3", "--precision", "0.8")
    named = pd.read_parquet(table)
    for form, name in (("blast6", "b6"), ("sintax", "sintax"), ("dwc", "tsv")):
        run("identify", library, source, "--out", tmp_path / f"f.{name}", "--format", form,
            "--top-k", "3", "--precision", "0.8")  # fmt: skip
    hits = pd.read_csv(tmp_path / "f.b6", sep="\t", header=None)
    assert hits.shape == (3 * len(named), 12)
    assert hits[1].tolist() == named["nearest_ids"].explode().tolist()
    assert hits[2].tolist() == pytest.approx(named["nearest_identities"].explode().tolist())
    pattern = (
        r"[^\t]+\t(o:\w+\([01]\.\d\d\)(,[fgs]:\w+\([01]\.\d\d\))*)?\t\+\t(o:\w+(,[fgs]:\w+)*)?"
    )
    lines = (tmp_path / "f.sintax").read_text().splitlines()
    assert all(re.fullmatch(pattern, line) for line in lines)
    depth = [len(line.split("\t")[3].split(",")) if line.split("\t")[3] else 0 for line in lines]
    ranks = ["order", "family", "genus", "species"]
    assert depth == [
        0 if pd.isna(rank) else ranks.index(rank) + 1 for rank in named["accepted_rank"]
    ]
    core = pd.read_csv(tmp_path / "f.tsv", sep="\t")
    assert core["scientificName"].fillna("").tolist() == named["accepted_name"].fillna("").tolist()
    assert core["identifiedBy"].str.startswith("bioscan-clip ").all()
    assert core["genus"].notna().sum() == named["genus_accepted"].sum()


def test_names_within_taxa(run, library, tmp_path, sample_file):
    order = ReferenceLibrary.open(library).table(np.arange(1))["order"][0]
    (tmp_path / "list.txt").write_text(f"{order}\n")
    for taxa in (f"order={order}", tmp_path / "list.txt"):
        out = tmp_path / "names.csv"
        run("identify", library, f"{sample_file}::test_seen", "--out", out, "--restrict-to", taxa,
            "--force")  # fmt: skip
        assert set(pd.read_csv(out)["order"]) == {order}


def test_embeddings_of_a_file_build_the_same_library(run, library, model, tmp_path, sample_file):
    out = tmp_path / "keys.parquet"
    run("embed", tmp_path / "best.ckpt", f"{sample_file}::all_keys", "--out", out)
    run("library", "build", tmp_path / "again", out, "--model", tmp_path / "best.ckpt")
    one, other = (ReferenceLibrary.open(folder) for folder in (library, tmp_path / "again"))
    queries = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    assert (one.search(queries, "dna").rows == other.search(queries, "dna").rows).all()
    run("embed", tmp_path / "best.ckpt", f"{sample_file}::all_keys", "--out", tmp_path / "k.npz")
    saved = np.load(tmp_path / "k.npz")
    assert saved["dna"].shape == (len(one), 64)
    model.hash = "other"
    for arguments in (
        ("library", "build", tmp_path / "third", out, "--model", tmp_path / "best.ckpt"),
        ("identify", library, f"{sample_file}::test_seen", "--out", tmp_path / "x.csv"),
        ("library", "add", library, f"{sample_file}::test_seen"),
    ):
        assert "another model" in run(*arguments, status=1)


def test_add_and_remove(run, library, sample_file):
    before = len(ReferenceLibrary.open(library))
    run("library", "add", library, f"{sample_file}::test_seen")
    added = ReferenceLibrary.open(library)
    assert len(added) > before
    name = added.table(np.array([before]))["sampleid"][0]
    run("library", "remove", library, name)
    assert len(ReferenceLibrary.open(library)) == len(added) - 1


def test_a_run_resumes_where_it_was_stopped(
    run, library, model, tmp_path, sample_file, monkeypatch
):
    for module in (embedding, naming):
        monkeypatch.setattr(module, "PART", 10)
    arguments = ("identify", library, f"{sample_file}::test_seen", "--out", tmp_path / "n.parquet")
    run(*arguments)
    whole = pd.read_parquet(tmp_path / "n.parquet")
    (tmp_path / "n.parquet").unlink()
    model.asked, first, encode = 0, 2 * 10, model.encode_dna

    def stopped(*a, **k):
        if model.asked > first:
            raise KeyboardInterrupt
        return encode(*a, **k)

    model.encode_dna = stopped
    CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert not (tmp_path / "n.parquet").exists()
    done = len(list((tmp_path / "n.parquet.parts").glob("part-*.parquet")))
    assert 0 < done < -(-len(whole) // 10)
    model.encode_dna, model.asked = encode, 0
    run(*arguments)
    assert model.asked == 2 * (len(whole) - 10 * done)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "n.parquet"), whole)


def test_what_is_asked_for_is_checked_before_the_work(run, library, model, tmp_path, sample_file):
    asked, source = model.asked, f"{sample_file}::test_seen"
    (tmp_path / "there.csv").write_text("")
    for arguments, sentence in (
        (("--out", tmp_path / "x.docx"), "should end with"),
        (("--out", tmp_path / "there.csv"), "--force"),
        (("--out", tmp_path / "x.csv", "--precision", "0.999"), "from 0.5 to 0.99"),
        (("--out", tmp_path / "x.csv", "--restrict-to", "order=Nope"), "no key specimen"),
    ):
        assert sentence in run("identify", library, source, *arguments, status=1)
    other = json.loads((library / "library.json").read_text())
    other["model"]["source"] = str(tmp_path / "moved.ckpt")
    (library / "library.json").write_text(json.dumps(other))
    assert "--model" in run("identify", library, source, "--out", tmp_path / "x.csv", status=1)
    assert "--slurm takes" in run(
        "embed", "m", source, "--out", tmp_path / "x.npz", "--slurm", "a40", status=1
    )
    assert model.asked == asked
