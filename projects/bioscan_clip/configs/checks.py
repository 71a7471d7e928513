"""Options that are wrong by themselves end a run before it makes its output folder."""

from typing import Any

from hydra.experimental.callback import Callback
from lightning.fabric.utilities.seed import max_seed_value, min_seed_value
from omegaconf import DictConfig


class CheckOptions(Callback):
    """Ends a run with a sentence; other exceptions of callbacks are warnings to Hydra."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run."""
        _check(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what the runs of a sweep have in common."""
        _check(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the options of one run of a sweep."""
        _check(config)


def _check(config: DictConfig) -> None:
    name, seed = config.experiment_name, config.seed
    if not name or name.startswith(".") or set(name) & set("/\\"):
        raise SystemExit(
            f"experiment_name={name}: it names a folder in outputs; choose a name without slashes "
            "that does not begin with a dot."
        )
    if seed is None or not min_seed_value <= seed <= max_seed_value:
        raise SystemExit(f"seed={seed}: choose a number from {min_seed_value} to {max_seed_value}.")
