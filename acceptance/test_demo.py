"""The output files of `make demo` are what the project promises. Run it after the demo."""

import csv
import json
import subprocess
import time
from pathlib import Path

import h5py
import pytest

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "outputs" / "demo"


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    return json.loads((DEMO / "eval" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def history() -> list[dict[str, str]]:
    with (DEMO / "train" / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def genus_chance() -> float:
    """Best constant guess: the share of the commonest genus among the unseen test queries."""
    with h5py.File(ROOT / "data" / "bioscan_sample.hdf5") as file:
        genera = file["test_unseen"]["genus"][:].tolist()
    return max(genera.count(genus) for genus in set(genera)) / len(genera)


def test_barcodes_name_their_species(metrics):
    assert metrics["test/dna_to_dna/seen/micro/top1/species"] >= 0.90


def test_photos_find_their_family_among_barcodes(metrics):
    assert metrics["test/rgb_to_dna/seen/micro/top1/family"] >= 0.60


def test_photos_of_unseen_species_find_their_genus(metrics):
    with h5py.File(ROOT / "data" / "bioscan_sample.hdf5") as file:
        n_genera = len(set(file["all_keys"]["genus"][:].tolist()))
    accuracy = metrics["test/rgb_to_dna/unseen/micro/top1/genus"]
    assert accuracy >= 5 / n_genera
    assert accuracy > genus_chance()


def test_seen_species_are_easier_than_unseen_ones(metrics):
    name = "test/rgb_to_dna/{}/micro/top1/species"
    assert metrics[name.format("seen")] > metrics[name.format("unseen")]


def test_sample_is_not_trivial(metrics):
    assert metrics["test/rgb_to_dna/seen/micro/top1/species"] < 0.95


def test_report_shows_the_accuracy(metrics):
    page = (DEMO / "eval" / "report.html").read_text()
    assert f"{100 * metrics['test/rgb_to_dna/seen/micro/top1/species']:.1f}%" in page
    assert page.count("data:image/") > 50  # photos of queries and their nearest keys


def test_loss_falls_from_chance(history):
    losses = [float(row["train/loss"]) for row in history if row.get("train/loss")]
    first, last = losses[0], sum(losses[-5:]) / 5
    assert last < 0.75 * first


def test_second_demo_reuses_the_first():
    started = time.monotonic()
    again = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 60
    assert "rgb to dna" in again.stdout
    assert str(DEMO.relative_to(ROOT) / "train" / "checkpoints" / "best.ckpt") in again.stdout
