import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.slurm import INSTALL, Slurm, missing, wait_until

PROGRAM = str(Path(sys.executable).parent / "mmlearn_run")
SEARCH_PATH = "hydra.searchpath=[pkg://projects.bioscan_clip.configs]"
SMALL = (
    "+experiment=bioscan_sample",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0",
    "dataloader.train.batch_size=20",
    "dataloader.train.num_workers=1",
    "dataloader.val.num_workers=0",
    "+trainer.callbacks.probe._target_=tests.cluster.probe.Probe",
    "+trainer.callbacks.probe.folder=${hydra:runtime.output_dir}",
    "hydra.sweep.dir=sweep",
)


class Sweep:
    """Runs `mmlearn_run --multirun` on a SLURM, in a folder that knows nothing of the project."""

    def __init__(self, slurm: Slurm, folder: Path, sample_file: Path) -> None:
        self.slurm = slurm
        self.folder = folder
        self.environment = slurm.environment | {
            "BIOSCAN_SAMPLE_HDF5": str(sample_file),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),  # for tests.cluster.probe
        }

    @contextmanager
    def submitted(self, *overrides: str) -> Iterator[str]:
        """Submit jobs and yield the id of the first one, or of their array; stop what is left."""
        command = [PROGRAM, "--multirun", SEARCH_PATH, *SMALL, *overrides]
        with (self.folder / "submit.log").open("a") as log:
            submit = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._submit = submit
        try:
            wait_until(
                lambda: self.slurm.jobs() or submit.poll() is not None, 300, "a job to be submitted"
            )
            assert self.slurm.jobs(), "no job was submitted"
            yield self.slurm.jobs()[0].split("_")[0]
        except BaseException:
            self._print_logs()
            raise
        finally:
            submit.kill()
            submit.wait()
            self.slurm.cancel_all()

    def wait(self, seconds: int) -> None:
        """Wait until the submitted jobs are over; all must have succeeded."""
        assert self._submit.wait(timeout=seconds) == 0
        wait_until(lambda: not self.slurm.jobs(), 60, "the jobs to end")

    def run(self, *overrides: str, seconds: int) -> None:
        """Submit jobs and wait for them."""
        with self.submitted(*overrides):
            self.wait(seconds)

    def log(self, job: str, process: int = 0) -> str:
        """Return what a process of a job has printed, over all its starts."""
        (path,) = self.folder.rglob(f"{job}_{process}_log.out")
        return path.read_text()

    def _print_logs(self) -> None:
        for path in [self.folder / "submit.log", *sorted(self.folder.rglob("*_log.*"))]:
            print(f"--- {path}\n{path.read_text()[-6000:]}")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if missing():
        pytest.skip(f"SLURM is not installed here: no {', '.join(missing())} ({INSTALL})")
    with Slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def sweep(slurm: Slurm, tmp_path: Path, sample_file: Path) -> Sweep:
    return Sweep(slurm, tmp_path, sample_file)
