"""Each benchmark that docs/performance.md quotes runs to its end, at sizes that measure nothing."""

import multiprocessing
import re
import runpy
import sys
from pathlib import Path

import mmlearn.tasks  # noqa: F401  once for all, since it takes longer than most benchmarks
import pytest
import torch

ROOT = Path(__file__).parents[1]
BENCHMARKS = re.search(r"for benchmark in ([\w ]+);", (ROOT / "Makefile").read_text())[1].split()


def run(benchmark: str) -> None:
    script = ROOT / "benchmarks" / f"{benchmark}.py"
    sys.argv = [str(script), "--quick"]
    sys.path.insert(0, str(script.parent))
    torch.set_num_threads(1)
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_runs(benchmark, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    process = multiprocessing.get_context("fork").Process(target=run, args=(benchmark,))
    process.start()
    process.join(300)
    process.kill()
    assert process.exitcode == 0
    assert re.search(r"\d", capfd.readouterr().out)


def test_every_benchmark_is_run():
    scripts = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()
    }
    assert {*BENCHMARKS, "recipes"} == scripts  # which trains; tests/configs composes its options
