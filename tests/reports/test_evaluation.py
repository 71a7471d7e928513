"""`bioscan-clip evaluate` finds in saved embeddings what was found when they were saved."""

import json
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
from projects.bioscan_clip.reports.evaluation import evaluate_and_report, headline
from projects.bioscan_clip.reports.saved_embeddings import save_embeddings


@pytest.fixture
def run(tmp_path, specimens):
    """A run's output folder with embeddings."""
    save_embeddings(specimens, "test", tmp_path / "run")
    return tmp_path / "run"


def test_saved_embeddings_have_the_numbers_of_their_run(run, tmp_path, evaluation):
    out = tmp_path / "scores"
    arguments = ["evaluate", "--embeddings", str(run), "--out", str(out), "--report", "light"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Top-1 accuracy in percent (" in result.output
    numbers = {f"test/{name}": value for name, value in evaluation.numbers().items()}
    assert json.loads((out / "metrics.json").read_text()) == numbers
    assert {path.name for path in out.iterdir()} == {
        *("metrics.json", "metrics.csv", "predictions.parquet", "evaluation.json", "report.html")
    }
    predictions = pq.read_table(out / "predictions.parquet").to_pandas()
    seen = predictions[(predictions["split"] == "seen") & (predictions["key"] == "rgb")]
    right = (seen["true_order"] == seen["predicted_order"]).mean()
    assert right == pytest.approx(numbers["test/rgb_to_rgb/seen/micro/top1/order"])


def test_off_leaves_numbers_only(run, tmp_path):
    arguments = ["evaluate", "--embeddings", str(run / "embeddings.hdf5"), "--report", "off"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "scores")])
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["metrics.json"]


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "text.hdf5").write_text("no HDF5")
    for path, message in {
        tmp_path / "nowhere": "There is no",
        tmp_path: "holds neither embeddings.hdf5 nor files named",
        tmp_path / "text.hdf5": "cannot be read as HDF5",
    }.items():
        arguments = ["evaluate", "--embeddings", str(path), "--out", str(tmp_path / "scores")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert message in result.output
        assert result.output.count("\n") == 1
        assert not (tmp_path / "scores").exists()


def test_a_run_is_not_written_over(run):
    before = (run / "embeddings.hdf5").read_bytes()
    for path in (run, run / "embeddings.hdf5"):
        arguments = ["evaluate", "--embeddings", str(path), "--out", str(run)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "is where the embeddings are" in result.output
    assert {path.name: path.read_bytes() for path in run.iterdir()} == {"embeddings.hdf5": before}


def test_what_was_evaluated_is_said_as_by_the_run(run, tmp_path):
    (run / "evaluation.json").write_text(json.dumps({"file": "data.hdf5", "seed": 7}))
    out = tmp_path / "scores"
    arguments = ["evaluate", "--embeddings", str(run), "--out", str(out), "--report", "light"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    about = json.loads((out / "evaluation.json").read_text())
    assert (about["file"], about["seed"], about["stage"]) == ("data.hdf5", 7, "test")


def test_scoring_needs_neither_lightning_nor_mmlearn(run, tmp_path):
    """Both take many seconds to import. Plots are for those who ask for a page."""
    code = f"""
import sys
from projects.bioscan_clip.tasks import evaluate_embeddings
from projects.bioscan_clip.cli import app
arguments = ["evaluate", "--embeddings", {str(run)!r}, "--out", {str(tmp_path / "out")!r}]
app([*arguments, "--force", "--report", sys.argv[1]], standalone_mode=False)
names = {{"mmlearn", "lightning", "torchmetrics", "transformers", "wandb", "plotly", "pacmap"}}
print("imported", *sorted(names & set(sys.modules)))
"""
    for report, expected in (("off", "imported"), ("light", "imported plotly")):
        command = [sys.executable, "-c", code, report]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == expected


def test_damaged_evaluation_json_is_one_line(run, tmp_path):
    for text, message in (("{", "cannot be read ("), ("[]", "holds no values by name")):
        (run / "evaluation.json").write_text(text)
        arguments = ["evaluate", "--embeddings", str(run), "--out", str(tmp_path / "scores")]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: {run / 'evaluation.json'} {message}")
        assert result.output.count("\n") == 1


def test_the_output_must_be_a_folder(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments = ["evaluate", "--embeddings", str(run), "--out", str(tmp_path / "file")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "is not a folder" in result.output
    assert (tmp_path / "file").read_text() == "mine"


def test_an_evaluation_is_replaced_only_if_so_wished(run, tmp_path):
    out = tmp_path / "scores"
    out.mkdir()
    (out / "metrics.json").write_text("mine")
    arguments = ["evaluate", "--embeddings", str(run), "--out", str(out), "--report", "off"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "metrics.json exists. Use --force to replace it" in result.output
    assert (out / "metrics.json").read_text() == "mine"
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert json.loads((out / "metrics.json").read_text())


def test_a_restriction_scores_queries_inside_only(specimens, tmp_path, capsys):
    orders = {role: each.table["order"] for role, each in specimens.items()}
    order = orders["unseen"].dropna().iloc[0]
    numbers = evaluate_and_report(
        specimens,
        "test",
        tmp_path,
        about={"experiment": "x", "seed": 3},
        report="light",
        restrict_to={"order": [order]},
    )
    inside = {role: names.eq(order).fillna(False) for role, names in orders.items()}
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert about["left_out"] == {role: int((~each).sum()) for role, each in inside.items()}
    assert about["splits"]["seen"] == {"test_seen": int(inside["seen"].sum())}
    assert about["restrict_to"] == {"order": [order]}
    assert (about["experiment"], about["seed"]) == ("x", 3)
    assert numbers["test/rgb_to_rgb/seen/micro/top1/order"] == 1
    predictions = pq.read_table(tmp_path / "predictions.parquet").to_pandas()
    assert set(predictions["true_order"]) == set(predictions["predicted_order"]) == {order}
    printed = " ".join(capsys.readouterr().out.split())
    counts = ", ".join(f"{about['left_out'][role]} {role}" for role in ("keys", "seen", "unseen"))
    assert f"Restricted to order {order}. Left out: {counts}." in printed


def test_other_processes_score_and_write_nothing(specimens, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    numbers = evaluate_and_report(specimens, "val", None, about={})
    assert numbers["val/dna_to_dna/seen/micro/top1/order"] > 0.5
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_every_digit_is_kept(specimens, evaluation, tmp_path):
    folder = tmp_path / "new" / "folder"
    numbers = evaluate_and_report(specimens, "test", folder, about={}, report="light", show=False)
    saved = json.loads((folder / "metrics.json").read_text())
    assert saved == numbers
    assert list(saved) == sorted(saved)
    table = pd.read_csv(folder / "metrics.csv")
    assert table.columns.tolist() == evaluation.metrics.columns.tolist()
    for name in table:
        assert table[name].tolist() == pytest.approx(evaluation.metrics[name].tolist(), nan_ok=True)


def test_headline():
    names = [
        f"test/{pair}/{split}/{average}/top1/species"
        for pair in ("rgb_to_dna", "rgb_to_rgb", "dna_to_dna", "averaged_to_averaged")
        for split in ("seen", "unseen", "harmonic")
        for average in ("micro", "macro")
    ]
    others = [
        "test/rgb_to_text/seen/micro/top1/species",
        "test/rgb_to_dna/seen/micro/top3/species",
        "test/rgb_to_dna/seen/mistake/top1/species",
        "test/rgb_to_is_du/all/decision/top1/auroc",
    ]
    assert list(headline(dict.fromkeys([*names, *others], 0.5))) == names
