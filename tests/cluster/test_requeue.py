"""Trainings that are stopped in the middle resume by themselves and end as if they had not been."""

import os
import random
import re
import signal
from collections import defaultdict

import pytest

from tests.cluster.slurm import wait_until
from tests.cluster.test_sweep import end

pytestmark = pytest.mark.cluster

EPOCHS, STEPS_PER_EPOCH = 3, 14
STEPS = EPOCHS * STEPS_PER_EPOCH
QUICK = (
    "dataloader.train.batch_size=10",
    "dataloader.val.batch_size=10",
    "trainer.limit_val_batches=2",
)
EVERY_THREE_STEPS = (
    "trainer.callbacks.recent_checkpoints.every_n_train_steps=3",
    "trainer.callbacks.recent_checkpoints.train_time_interval=null",
)


def test_stopped_three_times_ends_with_the_same_weights(sweep):
    """Two equal jobs of two processes in an array; the first is stopped at random moments."""
    choice = random.Random(5)
    moments = sorted(choice.sample(range(4, STEPS - 6), 3))
    ways = choice.sample([requeue, kill_one_process, send_usr2], 3)
    print("stopped after steps", moments, "by", [way.__name__ for way in ways])
    two_processes = ("hydra/launcher=slurm_node", "hydra.launcher.gpus_per_node=2")
    with sweep.submitted(
        *two_processes,
        *QUICK,
        *EVERY_THREE_STEPS,
        "hydra.launcher.array_parallelism=1",
        "trainer.devices=2",
        f"trainer.max_epochs={EPOCHS}",
        # Else the few seconds until SLURM kills a requeued job would be enough for all steps.
        "+trainer.callbacks.probe.pause=0.5",
        "hydra.sweep.subdir=${hydra.job.num}",
        "tags=[stopped],[undisturbed]",
    ) as array:
        job = f"{array}_0"
        for start, (moment, way) in enumerate(zip(moments, ways, strict=True)):
            # A start may begin beyond its moment: SLURM leaves a requeued job time to save.
            wait_until(
                lambda s=start, m=moment: max(steps(sweep)[s], default=0) >= m,
                300,
                f"step {moment}",
            )
            way(sweep.slurm, job)
            wait_until(lambda s=start: restarts(sweep, job) == s + 1, 120, "SLURM to requeue")
        sweep.wait(500)
        assert sweep.slurm.job(f"{array}_1")["Restarts"] == "0"
    assert sweep.log(job).count("Training resumes from") == 3
    stopped, undisturbed = (end(sweep.folder / "sweep" / n, processes=2) for n in "01")
    assert stopped["step"] == STEPS
    assert stopped == undisturbed
    assert table(sweep, "0") == table(sweep, "1")


def test_time_limit_costs_no_step(sweep):
    """No checkpoint is due here but the one that is asked for before the job's time is up."""
    with sweep.submitted(
        "hydra/launcher=slurm_1gpu",
        "hydra.launcher.timeout_min=2",
        "hydra.launcher.signal_delay_s=20",
        "hydra.sweep.subdir=0",
        "trainer.limit_val_batches=0",
        "trainer.callbacks.last_checkpoint.every_n_epochs=1000",
        "trainer.max_epochs=1000",
    ) as job:
        # A start that is cut off before training has begun leaves no steps.
        wait_until(lambda: len(steps(sweep)) == 2, 540, "training to resume after the time limit")
        (_, before), (_, after) = sorted(steps(sweep).items())
        assert after[0] == before[-1] + 1
        assert re.search(r"Got SIGUSR2.*Requeued job", sweep.log(job), re.DOTALL)


def requeue(slurm, job):
    slurm.run("scontrol", "requeue", job)


def kill_one_process(slurm, job):
    os.kill(slurm.processes(job)[-1], signal.SIGKILL)


def send_usr2(slurm, job):
    """Send what SLURM sends before the time limit, to every process of the job."""
    slurm.run("scancel", "--signal=USR2", job)


def restarts(sweep, job: str) -> int:
    return int(sweep.slurm.job(job)["Restarts"])


def steps(sweep) -> dict[int, list[int]]:
    """Return which steps each start of the first job has begun so far."""
    path = sweep.folder / "sweep" / "0" / "progress"
    taken = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        start, step = line.split()
        taken[int(start)].append(int(step))
    return taken


def table(sweep, run: str) -> list[str]:
    """Return the steps that a run's metrics were logged at."""
    lines = (sweep.folder / "sweep" / run / "logs" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    return [line.split(",")[column] for line in lines]
