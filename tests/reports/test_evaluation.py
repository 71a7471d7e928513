"""`bioscan-clip evaluate` finds in saved embeddings what was found when they were saved."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app
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
