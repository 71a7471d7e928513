"""A training's metrics in one table, however often it was started."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment


class ContinuedCSVLogger(CSVLogger):
    """Lightning's logger, but a training that resumes in its folder goes on with its table.

    Lightning would delete ``metrics.csv``. Here its rows stay, but for those of steps that the
    resumed training takes again; and the file is whole at any moment.
    """

    _experiment: Any

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of this folder's table."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    metrics: list[dict[str, Any]]

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._path = Path(self.metrics_file_path)
        self._rows: list[dict[str, Any]] = []
        self._earlier = _read(self._path)

    def _check_log_dir_exists(self) -> None:
        """Leave the table as it is; Lightning deletes it here."""

    def save(self) -> None:
        """Write all rows, in place of the file that was there."""
        if not self.metrics:
            return
        self._rows += self.metrics
        self.metrics = []
        begin = min(row["step"] for row in self._rows)
        rows = [row for row in self._earlier if int(row["step"]) < begin] + self._rows
        unfinished = self._path.with_suffix(".unfinished")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
            writer.writeheader()
            writer.writerows(rows)
        unfinished.replace(self._path)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
