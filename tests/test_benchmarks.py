"""Each benchmark that docs/performance.md quotes runs to its end, at sizes that measure nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = re.search(r"for benchmark in ([\w ]+);", (ROOT / "Makefile").read_text())[1].split()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_runs(benchmark):
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{benchmark}.py", "--quick"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"\d", run.stdout)


def test_every_benchmark_is_run():
    scripts = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()
    }
    assert {*BENCHMARKS, "recipes"} == scripts  # which trains; tests/configs composes its options
