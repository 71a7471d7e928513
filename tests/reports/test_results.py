"""Means and deviations over runs, and what is said of runs that are not as published."""

import json
import statistics
from itertools import product
from pathlib import Path

import pytest

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.results import (
    collect_runs,
    load_published,
    summarize,
    unfinished_runs,
)
from projects.bioscan_clip.reports.results_table import render
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

README = Path(__file__).parents[2] / "README.md"


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
            assert source.percent[rank, average, split] == figure


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
    assert run.facts["stage"] == "test"
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


def test_seed_of_a_checkpoint_from_elsewhere_is_unknown_unless_told(tmp_path):
    """The evaluation's own, 5, is that of nothing."""
    told = config(5, checkpoint="/elsewhere/c/best.ckpt")
    run = write_run(tmp_path / "r", accuracies(0), told)
    assert collect_runs([run])[0].seed is None
    (run / "evaluation.json").write_text('{"seed": 3}')
    assert collect_runs([run])[0].seed == 3


def test_repeated_and_unknown_seeds_are_said(tmp_path):
    for name, seed in {"a": 7, "b": 7, "c": None}.items():
        write_1m(tmp_path / name, seed)
    notes = summarize(collect_runs([tmp_path])).notes
    assert "Repeated seeds: 7 (2 runs)" in notes[0]
    assert "1 of 3 runs do not tell" in notes[1]


def test_the_papers_data_and_splits_leave_only_the_other_splits_of_mmlearn(summary):
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
    ("run", "is_theirs", "words"),
    [
        ({"splits": SPLITS_1M | {"keys": {"all_keys": 300}}}, False, "my.hdf5 with 300 keys"),
        ({"config": config(0, variable="BIOSCAN_5M_HDF5")}, False, "BIOSCAN_5M_HDF5"),
        ({"splits": SPLITS_1M, "restrict_to": {"order": ["Diptera"]}}, False, "Other data"),
        ({"config": config(0)}, None, "do not tell how many keys"),
        ({}, None, "do not tell how many keys"),
        ({"splits": SPLITS_1M}, True, "Other splits"),
    ],
)
def test_other_data_are_said(tmp_path, run, is_theirs, words):
    for name in ("a", "b"):
        told = {"file": "my.hdf5", "seed": 0} | run
        folder = write_run(tmp_path / name, accuracies(0), **told)
        if "splits" not in run:
            (folder / "evaluation.json").unlink()
    summary = summarize(collect_runs([tmp_path]))
    assert words in summary.caveats[0]
    alone = summarize(summary.runs[:1])
    assert (len(alone.sources) == 0) is (is_theirs is False)


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
        (
            {"restrict_to": {"order": ["Diptera", "Coleoptera"], "family": ["Culicidae"]}},
            "restricted to: all taxa ({0}/0 {0}/1), the order Diptera or Coleoptera and the family "
            "Culicidae ({0}/2)",
        ),
        ({"untrained": True}, "weights: trained ({0}/0 {0}/1), untrained ({0}/2)"),
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
        ("metrics.json", "{", "metrics.json cannot be read"),
        ("metrics.json", "[1]", "metrics.json holds no values by name"),
        ("metrics.json", '{"test/x": "high"}', "metrics.json holds no numbers"),
        ("metrics.json", '{"test/x": true}', "metrics.json holds no numbers"),
        ("metrics.json", "{}", "metrics.json holds no numbers"),
        ("metrics.json", '{"test/a/b/micro/top1/order": 1.5}', "order is 1.5, but accuracies lie"),
        ("metrics.json", '{"test/a/b/macro/top1/order": -0.1}', "is -0.1, but accuracies lie"),
        ("metrics.json", '{"test/a/b/micro/top1/order": NaN}', "is nan, but accuracies lie"),
        ("evaluation.json", "no", "evaluation.json cannot be read"),
        ("evaluation.json", "[]", "evaluation.json holds no values by name"),
        ("evaluation.json", '{"splits": [1]}', "evaluation.json is not as an evaluation writes it"),
        ("evaluation.json", '{"splits": {"keys": 7}}', "evaluation.json is not as"),
        ("evaluation.json", '{"splits": {"keys": {"a": "7"}}}', "evaluation.json is not as"),
        ("evaluation.json", '{"seed": "zero"}', "evaluation.json is not as"),
        ("evaluation.json", '{"restrict_to": {"order": 5}}', "evaluation.json is not as"),
        (".hydra/config.yaml", "a: [", "config.yaml cannot be read"),
    ],
)
def test_damaged_files_are_named(sweep, file, text, words):
    (sweep / "1" / file).write_text(text)
    with pytest.raises(ValueError, match=words):
        collect_runs([sweep])


def test_numbers_that_are_no_accuracies_may_be_any(sweep):
    path = sweep / "1" / "metrics.json"
    told = {"test/rgb_to_dna/seen/mistake/top1/mean": 2.5}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    assert len(collect_runs([sweep])) == 3


def test_untrained_and_restricted_runs_are_said_to_be(tmp_path):
    told = {"untrained": True, "restrict_to": "flies.txt"}
    for seed in (0, 1):
        write_1m(tmp_path / str(seed), seed, **told)
    notes = summarize(collect_runs([tmp_path])).notes
    assert notes[0].startswith("Untrained: random weights were scored")
    assert notes[1].startswith("Restricted to the taxa in flies.txt:")


def test_runs_whose_encoder_has_seen_bioscan_are_marked(tmp_path):
    for seed in (0, 1):
        write_1m(tmp_path / str(seed), seed, has_seen_bioscan=True)
    summary = summarize(collect_runs([tmp_path]))
    assert summary.notes[0].startswith("* Has seen BIOSCAN")
    table = render(summary, "markdown")
    assert table.count("these runs\\*") + table.count("these runs*") >= 4
    write_1m(tmp_path / "2", 2, has_seen_bioscan=False)
    with pytest.raises(ValueError, match=r"pretrained: with BIOSCAN .*, without BIOSCAN"):
        summarize(collect_runs([tmp_path]))


def test_runs_with_other_queries_are_not_averaged(tmp_path):
    write_1m(tmp_path / "a", 0, correct_barcodes=True, test_time_views=False)
    note = "Queries: barcodes corrected by those of the keys; published figures"
    assert summarize(collect_runs([tmp_path])).notes[0].startswith(note)
    told = config(1) + "task: {evaluation_tasks: {w: null, x: {task: {test_time_views: true}}}}\n"
    write_run(tmp_path / "b", accuracies(1), told)
    write_1m(tmp_path / "c", 2)
    with pytest.raises(ValueError, match=r"queries: barcodes .*, photos averaged .*, as they are"):
        summarize(collect_runs([tmp_path]))


def test_an_untrained_run_without_a_report_is_noticed(tmp_path):
    told = config(0) + "task: {evaluate_untrained: true}\n"
    write_run(tmp_path / "a", accuracies(0), told)
    assert "Untrained" in summarize(collect_runs([tmp_path])).notes[0]
    scored = config(0, checkpoint="/runs/c/best.ckpt") + "task: {evaluate_untrained: true}\n"
    write_run(tmp_path / "b", accuracies(0), scored)
    with pytest.raises(ValueError, match="weights: untrained"):
        summarize(collect_runs([tmp_path]))


def test_validation_data_are_one_evaluation_with_what_is_scored_from_its_file(tmp_path):
    """By `job_type=eval`, and by `bioscan-clip evaluate` of its embeddings: no config there."""
    splits = SPLITS_1M | {"seen": {"val_seen": 50}, "unseen": {"val_unseen": 40}}
    write_1m(tmp_path / "eval", 0, splits=splits, config=config(0))
    write_1m(tmp_path / "scored", 0, splits=splits)
    summary = summarize(collect_runs([tmp_path]))
    assert summary.facts["split of unseen"] == "val_unseen"
    assert not any("mmlearn" in caveat for caveat in summary.caveats)


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        collect_runs([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"holds no metrics\.json"):
        collect_runs([tmp_path])
