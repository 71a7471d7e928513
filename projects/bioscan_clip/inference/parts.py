"""Work on many specimens in parts: resumed after a kill, or spread over a cluster by SLURM."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from projects.bioscan_clip.files import progress, write_whole

_GENERAL: Final = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "nodes", "name")
_PENDING: Final = "input.parquet"
_KEY: Final = "key.json"


class Work(Protocol):
    """What is done with a part; sent to other machines by pickling."""

    def __call__(self, table: pd.DataFrame) -> pa.Table:
        """Return the result of some specimens."""


@dataclass(frozen=True)
class Slurm:
    """How jobs are submitted.

    Attributes
    ----------
    options : mapping of str to str
        ``partition``, ``gres``, ``mem_gb``, ``timeout_min`` and others of submitit's; ``cluster``
        ``local`` runs them on this machine.
    jobs : int
        Jobs of the array.
    """

    options: Mapping[str, str]
    jobs: int

    @classmethod
    def parse(cls, options: Sequence[str], jobs: int) -> "Slurm | None":
        """Read options as typed, ``partition=a40,mem_gb=16``; None if there are none."""
        pairs = [pair.partition("=") for text in options for pair in text.split(",") if pair]
        for name, equals, value in pairs:
            if not (name and equals and value):
                raise ValueError(f"--slurm takes NAME=VALUE, such as partition=a40, not {name!r}.")
        return cls({name: value for name, _, value in pairs}, jobs) if pairs else None


class Parts:
    """Results of parts of a table, in a folder beside what they will become.

    Parameters
    ----------
    out : pathlib.Path
        What is made of them; the folder is called like it, with ``.parts``.
    table : pandas.DataFrame
        All specimens.
    size : int
        Specimens per part.
    key : mapping
        All that the results depend on, in plain values: parts with another key are made anew.
    """

    def __init__(self, out: Path, table: pd.DataFrame, size: int, key: Mapping[str, Any]) -> None:
        self.folder = out.with_name(out.name + ".parts")
        self._table = table
        self._size = size
        hashed = int(pd.util.hash_pandas_object(table, index=False).sum())
        text = json.dumps({**key, "size": size, "specimens": [len(table), hashed]}, sort_keys=True)
        if self.folder.exists() and (self.folder / _KEY).is_file():
            if (self.folder / _KEY).read_text() != text:
                self.remove()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is in the way; delete it or name another output.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / _KEY, lambda path: path.write_text(text))

    def __len__(self) -> int:
        """Return the number of parts."""
        return -(-len(self._table) // self._size)

    def missing(self) -> list[int]:
        """Return the parts that are not there yet."""
        return [part for part in range(len(self)) if not self._path(part).exists()]

    def run(self, work: Work, description: str, slurm: Slurm | None = None) -> None:
        """Do what is missing, here or by jobs of SLURM, and wait for it."""
        missing = self.missing()
        if slurm is not None and missing:
            self._submit(work, missing, slurm)
            return
        with progress(description, len(self._table)) as advance:
            advance(sum(self._rows(part) for part in range(len(self)) if part not in set(missing)))
            for part in missing:
                _do(work, self._slice(part), self._path(part))
                advance(self._rows(part))

    def read(self) -> Iterator[pa.Table]:
        """Read the results, in order."""
        return (pq.read_table(self._path(part)) for part in range(len(self)))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _rows(self, part: int) -> int:
        return min(self._size, len(self._table) - part * self._size)

    def _slice(self, part: int) -> pd.DataFrame:
        start = part * self._size
        return self._table.iloc[start : start + self._size].reset_index(drop=True)

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def _submit(self, work: Work, missing: Sequence[int], slurm: Slurm) -> None:
        import submitit

        for part in missing:
            self._slice(part).to_parquet(self.folder / f"{_PENDING}.{part:06d}")
        options = dict(slurm.options)
        executor = submitit.AutoExecutor(self.folder / "jobs", cluster=options.pop("cluster", None))
        named = {
            name if name in _GENERAL else f"slurm_{name}": int(value) if value.isdigit() else value
            for name, value in options.items()
        }
        executor.update_parameters(**named)
        shares = [missing[first :: slurm.jobs] for first in range(min(slurm.jobs, len(missing)))]
        jobs = executor.map_array(_Job(work, str(self.folder)), shares)
        print(f"Submitted {len(jobs)} jobs for {len(missing)} parts: {jobs[0].job_id}, ...")
        for job in jobs:
            job.result()


@dataclass(frozen=True)
class _Job:
    """Some parts, on another machine; what is there already is left out, as after a requeue."""

    work: Work
    folder: str

    def __call__(self, parts: Sequence[int]) -> None:
        for part in parts:
            path = Path(self.folder, f"part-{part:06d}.parquet")
            if not path.exists():
                table = pd.read_parquet(Path(self.folder, f"{_PENDING}.{part:06d}"))
                _do(self.work, table, path)


def _do(work: Work, table: pd.DataFrame, path: Path) -> None:
    result = work(table)
    write_whole(path, lambda unfinished: pq.write_table(result, unfinished))
