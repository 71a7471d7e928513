"""Loggers that resume with their training: one table, and one run of Weights & Biases."""

import csv
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from projects.bioscan_clip.files import write_whole

logger = logging.getLogger(__name__)


class ContinuedCSVLogger(CSVLogger):
    """Lightning's logger, with one table of a training however often it was started.

    Each start writes a ``metrics.csv`` of its own, in ``version_0``, ``version_1`` and so on.
    Beside these folders, ``metrics.csv`` puts them together: without the rows of steps that a
    resumed training took again, and without those of an evaluation, which ``metrics.json`` holds.
    """

    @rank_zero_only
    def save(self) -> None:
        """Write the rows since the last time."""
        super().save()
        rows = _training_rows(Path(self.root_dir))
        if rows:
            write_whole(Path(self.root_dir) / "metrics.csv", lambda path: _write(path, rows))


class OfflineFallbackWandbLogger(WandbLogger):
    """Lightning's logger, offline where there is no login, and one run for each training.

    Without a login, wandb asks for one on a terminal and fails on a cluster node; here the run is
    written offline and one line says how to upload it. ``WANDB_MODE`` overrules this.

    A training that resumes in its output folder, as a requeued job does, continues the same run:
    the folder's ``wandb-run-id.txt`` holds its id.

    Parameters
    ----------
    name_of_run : str
        Name of the run.
    save_dir : str or pathlib.Path
        Output folder of the training, for the run's files.
    project : str
        Project of the run.
    **kwargs
        As in Lightning's class, and further arguments of ``wandb.init``.
    """

    def __init__(self, name_of_run: str, save_dir: str | Path, project: str, **kwargs: Any) -> None:
        import wandb  # takes a second, and runs without it need not wait

        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False):
            kwargs["mode"] = "offline"
            rank_zero_only(logger.warning)(
                "Weights & Biases: no login found, so this run is kept offline in %s/wandb; "
                "`wandb sync` uploads it after `wandb login`.",
                save_dir,
            )
        if rank_zero_only.rank == 0:
            kwargs.setdefault("id", _run_id(Path(save_dir)))
        super().__init__(name=name_of_run, save_dir=save_dir, project=project, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run, so that the next job of a sweep in this process starts its own."""
        import wandb

        super().finalize(status)
        wandb.finish(exit_code=0 if status == "success" else 1)


def _training_rows(folder: Path) -> list[dict[str, str]]:
    """Read the tables of all starts, in their order."""
    rows: list[dict[str, str]] = []
    tables = folder.glob("version_*/metrics.csv")
    for table in sorted(tables, key=lambda path: int(path.parent.name.split("_")[1])):
        with table.open(newline="") as file:
            own = [row for row in csv.DictReader(file) if not _is_evaluation(row)]
        begin = min((int(row["step"]) for row in own), default=None)
        if begin is not None:
            rows = [row for row in rows if int(row["step"]) < begin] + own
    return rows


def _is_evaluation(row: dict[str, str]) -> bool:
    return any(value and name.startswith("test/") for name, value in row.items())


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows(rows)


def _run_id(folder: Path) -> str:
    """Return the id of the folder's run, which is made up the first time."""
    path = folder / "wandb-run-id.txt"
    if not path.exists():
        write_whole(path, lambda unfinished: unfinished.write_text(secrets.token_hex(8)))
    return path.read_text().strip()
