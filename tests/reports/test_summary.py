"""Means and deviations over runs, and what is said of runs that are not as published."""

import json
import statistics
from itertools import product
from pathlib import Path

import pytest

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.published import load_published
from projects.bioscan_clip.reports.runs import collect_runs, unfinished_runs
from projects.bioscan_clip.reports.summary import summarize
from tests.reports.fake_runs import (
    CELLS,
    SEEDS,
    SPLITS_1M,
    accuracies,
    config,
    write_1m,
    write_run,
    write_sweep,
)

README = Path(__file__).parents[3] / "README.md"


@pytest.fixture
def sweep(tmp_path) -> Path:
    return write_sweep(tmp_path / "sweep")


@pytest.fixture
def summary(sweep):
    return summarize(collect_runs([sweep]))


def readme_table() -> dict[tuple[str, str, str], list[float]]:
    """Return README's figures: paper / LoRA qv / LoRA qkv."""
    figures = {}
    for line in README.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in RANKS and len(cells) == 5:
            columns = product(("micro", "macro"), ("seen", "unseen"))
            for column, cell in zip(columns, cells[1:], strict=True):
                figures[(cells[0], *column)] = [float(value) for value in cell.split("/")]
    return figures


def test_published_figures_are_those_of_the_readme():
    sources = load_published().sources
    assert [source.splits["seen"] for source in sources] == ["test_seen", "val_seen", "val_seen"]
    assert all(source.url.startswith("https://") for source in sources)
    table = readme_table()
    assert set(table) == set(CELLS)
    for cell, expected in table.items():
        assert [source.percent[cell] for source in sources] == expected


def test_mean_and_deviation_over_seeds(summary):
    runs = [accuracies(seed) for seed in SEEDS]
    for rank, average, split in CELLS:
        name = f"test/rgb_to_dna/{split}/{average}/top1/{rank}"
        values = [100 * run[name] for run in runs]
        mean, std, n = summary.figures.loc[(rank, average, split)]
        assert mean == pytest.approx(statistics.mean(values))
        assert std == pytest.approx(statistics.stdev(values))
        assert n == 3
        for source, figure in zip(
            summary.sources, readme_table()[rank, average, split], strict=True
        ):
            difference = summary.difference(source)[rank, average, split]
            assert difference == pytest.approx(statistics.mean(values) - figure)


def test_one_run_has_no_deviation(tmp_path):
    summary = summarize(collect_runs([write_1m(tmp_path / "run", 0)]))
    assert summary.figures["std"].isna().all()


def test_runs_are_found_once_however_they_are_named(sweep, monkeypatch):
    monkeypatch.chdir(sweep.parent)
    (sweep / "multirun.yaml").write_text("hydra: {}")
    runs = collect_runs([Path("sweep"), sweep / "1", sweep.parent, *sorted(sweep.iterdir())])
    assert [run.seed for run in runs] == list(SEEDS)


def test_test_numbers_are_preferred_to_validation(tmp_path):
    metrics = accuracies(0) | accuracies(1, stage="val")
    (run,) = collect_runs([write_run(tmp_path / "run", metrics)])
    name = "rgb_to_dna/seen/micro/top1/order"
    assert run.stage == "test"
    assert run.metrics[name] == metrics[f"test/{name}"]


def test_seed_is_that_of_the_training(tmp_path):
    """Evaluations of several checkpoints all have the default seed themselves."""
    for seed in SEEDS:
        training = write_run(
            tmp_path / "train" / str(seed), accuracies(seed, stage="val"), config(seed, "val")
        )
        checkpoint = training / "checkpoints" / "best.ckpt"
        # As Hydra saves a path.
        tagged = f"!!python/object/apply:pathlib.PosixPath {list(checkpoint.parts)}"
        write_run(tmp_path / "eval" / str(seed), accuracies(seed), config(0, checkpoint=tagged))
    summary = summarize(collect_runs([tmp_path / "eval"]))
    assert sorted(run.seed for run in summary.runs) == sorted(SEEDS)
    assert not any("seeds" in note for note in summary.notes)


def test_seed_of_a_resumed_training_is_its_own(tmp_path):
    first = write_run(tmp_path / "first", accuracies(0, stage="val"), config(1, "val"))
    told = config(2, "val", checkpoint=first / "checkpoints" / "last.ckpt")
    second = write_run(tmp_path / "second", accuracies(0, stage="val"), told)
    assert collect_runs([second])[0].seed == 2


def test_seed_of_a_checkpoint_from_elsewhere_is_the_evaluations(tmp_path):
    run = write_run(tmp_path / "r", accuracies(0), config(5, checkpoint="/elsewhere/c/best.ckpt"))
    assert collect_runs([run])[0].seed == 5


def test_repeated_and_unknown_seeds_are_said(tmp_path):
    for name, seed in {"a": 7, "b": 7, "c": None}.items():
        write_1m(tmp_path / name, seed)
    notes = summarize(collect_runs([tmp_path])).notes
    assert "Repeated seeds: 7 (2 runs)" in notes[0]
    assert "1 of 3 runs do not tell" in notes[1]


def test_the_papers_data_and_splits_leave_only_the_other_splits_of_mmlearn(summary):
    assert summary.on_published_data
    (caveat,) = summary.caveats
    assert "on test_seen and test_unseen; on val_seen and val_unseen: mmlearn qv" in caveat
    assert "paper" not in caveat


def test_validation_is_said_and_differs_from_the_paper(tmp_path):
    run = write_run(tmp_path / "run", accuracies(0, stage="val"), config(0, stage="val"))
    summary = summarize(collect_runs([run]))
    assert any("on test_seen and test_unseen: paper." in caveat for caveat in summary.caveats)
    assert not any("mmlearn" in caveat for caveat in summary.caveats)
    assert "last validation epoch" in summary.notes[0]


@pytest.mark.parametrize(
    ("run", "on_published_data", "words"),
    [
        ({"splits": SPLITS_1M | {"keys": {"all_keys": 300}}}, False, "my.hdf5 with 300 keys"),
        ({"config": config(0, variable="BIOSCAN_5M_HDF5")}, False, "BIOSCAN_5M_HDF5"),
        ({"config": config(0)}, None, "do not tell how many keys"),
        ({}, None, "do not tell how many keys"),
        ({"splits": SPLITS_1M}, True, "Other splits"),
    ],
)
def test_other_data_are_said(tmp_path, run, on_published_data, words):
    folder = write_run(tmp_path / "run", accuracies(0), **{"file": "my.hdf5", "seed": 0} | run)
    if "splits" not in run:
        (folder / "evaluation.json").unlink()
    summary = summarize(collect_runs([folder]))
    assert summary.on_published_data is on_published_data
    assert words in summary.caveats[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"file": "5m.hdf5"}, "data file: 1m.hdf5 ({0}/0 {0}/1), 5m.hdf5 ({0}/2)"),
        (
            {"splits": SPLITS_1M | {"keys": {"all_keys": 9999}}},
            "number of keys: 21,118 ({0}/0 {0}/1), 9,999 ({0}/2)",
        ),
        (
            {"splits": SPLITS_1M | {"seen": {"val_seen": 100}}},
            "split of seen: test_seen ({0}/0 {0}/1), val_seen ({0}/2)",
        ),
    ],
)
def test_mixed_runs_are_refused_by_name(sweep, changed, words):
    told = {"file": "1m.hdf5", "splits": SPLITS_1M} | changed
    (sweep / "2" / "evaluation.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="cannot be averaged") as refused:
        summarize(collect_runs([sweep]))
    assert words.format(sweep) in str(refused.value)


def test_mixed_stages_and_data_variables_are_refused(tmp_path):
    write_run(tmp_path / "a", accuracies(0), config(0))
    write_run(tmp_path / "b", accuracies(0, stage="val"), config(0, stage="val"))
    write_run(tmp_path / "c", accuracies(0), config(0, variable="BIOSCAN_5M_HDF5"))
    with pytest.raises(ValueError, match="cannot be averaged") as refused:
        summarize(collect_runs([tmp_path]))
    assert f"stage: test ({tmp_path}/a {tmp_path}/c), val ({tmp_path}/b)" in str(refused.value)
    assert f"BIOSCAN_5M_HDF5 ({tmp_path}/c)" in str(refused.value)


def test_numbers_that_a_run_lacks_are_left_out_of_means_and_named(sweep):
    name = "test/rgb_to_dna/unseen/macro/top1/species"
    metrics = {seed: accuracies(seed) for seed in SEEDS}
    metrics[0].pop(name)
    for number, seed in enumerate(SEEDS):
        for values in metrics.values():
            values.pop(name.replace("species", "genus"), None)
        (sweep / str(number) / "metrics.json").write_text(json.dumps(metrics[seed]))
    summary = summarize(collect_runs([sweep]))
    mean, _, n = summary.figures.loc[("species", "macro", "unseen")]
    assert (mean, n) == (pytest.approx(50 * (metrics[42][name] + metrics[1337][name])), 2)
    note = "genus, macro, unseen (0 of 3); species, macro, unseen (2 of 3)."
    assert summary.notes[0].endswith(note)


def test_runs_that_did_not_finish_are_found(sweep):
    assert unfinished_runs([sweep]) == []
    (sweep / "1" / ".hydra" / "config.yaml").write_text("seed: 1")
    (sweep / "1" / "metrics.json").unlink()
    assert unfinished_runs([sweep]) == [sweep / "1"]
    assert len(collect_runs([sweep])) == 2


def test_a_pair_without_published_figures(tmp_path):
    run = write_run(tmp_path / "run", accuracies(0, pair="averaged_to_all"))
    summary = summarize(collect_runs([run]), "averaged", "all")
    assert summary.sources == ()
    assert summary.caveats == ["Figures are published for rgb to dna only."]
    with pytest.raises(ValueError, match=r"No run has accuracies of rgb to dna.*averaged to all"):
        summarize(summary.runs)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("metrics.json", "{", "metrics.json is not JSON"),
        ("metrics.json", "[1]", "metrics.json holds no JSON object"),
        ("metrics.json", '{"test/x": "high"}', "metrics.json holds no numbers"),
        ("metrics.json", "{}", "metrics.json holds no numbers"),
        ("evaluation.json", "no", "evaluation.json is not JSON"),
        (".hydra/config.yaml", "a: [", "config.yaml is not YAML"),
    ],
)
def test_damaged_files_are_named(sweep, file, text, words):
    (sweep / "1" / file).write_text(text)
    with pytest.raises(ValueError, match=words):
        collect_runs([sweep])


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        collect_runs([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"holds no metrics\.json"):
        collect_runs([tmp_path])
