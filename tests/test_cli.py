import importlib.metadata
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from projects.bioscan_clip.cli import app


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_sample_is_written(runner, tmp_path):
    out = tmp_path / "new" / "sample.hdf5"
    result = runner.invoke(
        app, ["data", "sample", "--out", str(out), "--species", "12", "--specimens", "180"]
    )
    assert result.exit_code == 0, result.output
    assert f"Wrote {out}" in result.output.replace("\n", "")
    assert out.is_file()


def test_impossible_sample_is_refused_in_a_sentence(runner, tmp_path):
    arguments = ["data", "sample", "--out", str(tmp_path / "s.hdf5"), "--species", "2"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "species" in result.stderr


def test_sample_is_replaced_only_with_force(runner, tmp_path):
    out = tmp_path / "sample.hdf5"
    out.write_text("mine")
    arguments = ["data", "sample", "--out", str(out), "--species", "12", "--specimens", "180"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert "sample.hdf5 exists. Use --force to replace it" in result.stderr
    assert out.read_text() == "mine"
    assert runner.invoke(app, [*arguments, "--force"]).exit_code == 0
    assert out.stat().st_size > 1000


def test_errors_are_sentences_on_stderr(runner, tmp_path):
    missing = tmp_path / "none.tsv"
    result = runner.invoke(app, ["data", "split", str(missing), "--out", str(tmp_path / "lists")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {missing}: No such file or directory\n"


def test_version(runner):
    output = runner.invoke(app, ["--version"]).output
    assert output == f"bioscan-clip {importlib.metadata.version('bioscan-clip')}\n"


def test_help_imports_nothing_heavy():
    """In a process of its own: torch, pandas and rich tables take seconds."""
    program = (
        "import sys; from projects.bioscan_clip.cli import app;"
        "app(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'numpy', 'pandas', 'h5py'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_doctor_exit_status(runner, sample_file, monkeypatch):
    monkeypatch.setenv("BIOSCAN_SAMPLE_HDF5", str(sample_file))
    monkeypatch.delenv("BIOSCAN_1M_HDF5", raising=False)
    assert runner.invoke(app, ["doctor", "--experiment", "bioscan_sample"]).exit_code == 0
    result = runner.invoke(app, ["doctor", "--experiment", "bioscan_1m"])
    assert result.exit_code == 1
    assert "BIOSCAN_1M_HDF5" in result.output


def test_results_of_a_run(runner, tmp_path):
    name = "test/rgb_to_dna/seen/micro/top1/{}"
    ranks = ("order", "family", "genus", "species")
    values = {name.format(rank): 0.9 - 0.2 * i for i, rank in enumerate(ranks)}
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    output = runner.invoke(app, ["results", str(tmp_path)]).output
    row = next(line for line in output.splitlines() if "rgb to dna" in line)
    assert [cell.strip() for cell in row.split("│")[4:8]] == ["90.0", "70.0", "50.0", "30.0"]


def test_results_of_no_run(runner, tmp_path):
    result = runner.invoke(app, ["results", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no metrics.json" in " ".join(result.output.replace("│", "").split())
