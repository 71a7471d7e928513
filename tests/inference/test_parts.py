"""Parts of a large table, here and as jobs of submitit on this machine."""

from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pytest

from projects.bioscan_clip.inference.parts import Parts, Slurm


@dataclass
class Doubled:
    """Doubles numbers, and fails at one."""

    fails_at: int = -1

    def __call__(self, table: pd.DataFrame) -> pa.Table:
        if self.fails_at in table["number"].tolist():
            raise RuntimeError("stopped")
        return pa.table({"number": 2 * table["number"]})


@pytest.fixture
def table():
    return pd.DataFrame({"number": range(25)})


def read(parts):
    return [value for part in parts.read() for value in part["number"].to_pylist()]


def test_what_is_done_is_not_done_again(tmp_path, table):
    out = tmp_path / "out.csv"
    with pytest.raises(RuntimeError):
        Parts(out, table, 10, {"a": 1}).run(Doubled(fails_at=17), "Doubling")
    parts = Parts(out, table, 10, {"a": 1})
    assert parts.missing() == [1, 2]
    parts.run(Doubled(fails_at=3), "Doubling")  # part 0 is there
    assert read(parts) == [2 * number for number in range(25)]
    parts.remove()
    assert not parts.folder.exists()


@pytest.mark.parametrize("change", ["key", "table", "size"])
def test_parts_of_other_work_are_made_anew(tmp_path, table, change):
    Parts(tmp_path / "out", table, 10, {"a": 1}).run(Doubled(), "Doubling")
    key, size = {"a": 2 if change == "key" else 1}, 9 if change == "size" else 10
    if change == "table":
        table = table.assign(number=table["number"] + 1)
    assert Parts(tmp_path / "out", table, size, key).missing() == [0, 1, 2]


def test_somebody_elses_folder_is_not_touched(tmp_path, table):
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="in the way"):
        Parts(tmp_path / "out", table, 10, {})
    assert (tmp_path / "out.parts" / "thesis.txt").exists()


def test_jobs_do_the_parts_that_are_missing(tmp_path, table):
    """By submitit's local executor, in processes of their own; the third part is there already."""
    parts = Parts(tmp_path / "out", table, 5, {})
    Parts(tmp_path / "out", table, 5, {}).run(Doubled(), "Doubling")
    for part in (0, 1, 3, 4):
        (parts.folder / f"part-{part:06d}.parquet").unlink()
    there = (parts.folder / "part-000002.parquet").stat().st_mtime_ns
    parts.run(Doubled(), "Doubling", Slurm.parse(["cluster=local,timeout_min=5"], jobs=2))
    assert read(parts) == [2 * number for number in range(25)]
    assert (parts.folder / "part-000002.parquet").stat().st_mtime_ns == there


def test_options_of_slurm():
    parsed = Slurm.parse(["partition=a40,mem_gb=32", "gres=gpu:1"], jobs=16)
    assert parsed == Slurm({"partition": "a40", "mem_gb": "32", "gres": "gpu:1"}, 16)
    assert Slurm.parse([], jobs=16) is None
    with pytest.raises(ValueError, match="NAME=VALUE"):
        Slurm.parse(["a40"], jobs=16)
