"""Weights & Biases without surprises on a cluster."""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

logger = logging.getLogger(__name__)


class OfflineFallbackWandbLogger(WandbLogger):
    """Lightning's logger, offline where there is no login, and one run for each training.

    Without a login, wandb asks for one on a terminal and fails on a cluster node; here the run is
    written offline and one line says how to upload it. ``WANDB_MODE`` overrules this.

    A training that resumes in its output folder, as a requeued job does, goes on in the same run:
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

    _experiment: Any

    def __init__(self, name_of_run: str, save_dir: str | Path, project: str, **kwargs: Any) -> None:
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
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def _run_id(folder: Path) -> str:
    """Return the id of the folder's run, which is made up the first time."""
    path = folder / "wandb-run-id.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(secrets.token_hex(8))
        unfinished.replace(path)
    return path.read_text().strip()
