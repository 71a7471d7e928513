"""Parts of a large table as an array of SLURM jobs."""

from pathlib import Path

import pandas as pd
import pytest

from projects.bioscan_clip.inference.parts import Parts, Slurm
from tests.inference.test_parts import Doubled, read

pytestmark = pytest.mark.cluster


def test_an_array_does_the_parts_that_are_missing(slurm, tmp_path, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    table = pd.DataFrame({"number": range(25)})
    parts = Parts(tmp_path / "out", table, 5, {})
    parts.run(Doubled(), "Doubling")
    for part in (0, 1, 3, 4):
        (parts.folder / f"part-{part:06d}.parquet").unlink()
    there = (parts.folder / "part-000002.parquet").stat().st_mtime_ns
    parts.run(Doubled(), "Doubling", Slurm.parse(["partition=a40,timeout_min=5"], jobs=2))
    assert read(parts) == [2 * number for number in range(25)]
    assert (parts.folder / "part-000002.parquet").stat().st_mtime_ns == there
    assert len(list((parts.folder / "jobs").glob("*_result.pkl"))) == 2
