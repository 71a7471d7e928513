"""Sweeps on SLURM nodes, small and on the CPU, with the README's options and with presets."""

import json
import subprocess
from pathlib import Path

import pytest

from projects.bioscan_clip.reports.results import collect_runs
from tests.cluster.conftest import PROGRAM, SMALL

pytestmark = pytest.mark.cluster

README = (
    "hydra.launcher.mem_gb=32",
    "hydra.launcher.qos=normal",
    "hydra.launcher.partition=a40",
    "hydra.launcher.gres=gpu:2",
    "hydra.launcher.cpus_per_task=8",
    "hydra.launcher.tasks_per_node=2",
    "hydra.launcher.nodes=1",
    "hydra.launcher.stderr_to_stdout=true",
    "hydra.launcher.timeout_min=1440",
    "+hydra.launcher.additional_parameters={export: ALL}",
)
BATCHES = ("trainer.max_epochs=2", "seed=0", "hydra.sweep.subdir=${trainer.num_nodes}")


def test_two_processes_on_one_node_over_two_seeds(sweep):
    seeds = ("trainer.max_epochs=2", "seed=0,42", "hydra.sweep.subdir=${seed}")
    sweep.run(*README, "trainer.devices=2", *seeds, seconds=300)
    first, second = (sweep.folder / "sweep" / seed for seed in ("0", "42"))
    assert end(first, processes=2)["weights"] != end(second, processes=2)["weights"]
    assert [run.seed for run in collect_runs([sweep.folder / "sweep"])] == [0, 42]
    for run in (first, second):
        accuracies = json.loads((run / "metrics.json").read_text())
        assert 0 <= accuracies["val/rgb_to_dna/seen/micro/top1/species"] <= 1


def test_two_nodes_train_as_one_process_does(sweep):
    """The same specimens make up each step's loss: 40, or two times 20."""
    alone = ("hydra/launcher=slurm_1gpu", "dataloader.train.batch_size=40")
    sweep.run(*alone, *BATCHES, seconds=300)
    two = ("hydra/launcher=slurm_nodes", "trainer.num_nodes=2", "hydra.launcher.gpus_per_node=1")
    sweep.run(*two, *BATCHES, seconds=300)
    one, both = (sweep.folder / "sweep" / nodes for nodes in ("1", "2"))
    print(f"training: {seconds(one):.1f} s in one process, {seconds(both):.1f} s in two")
    for figure in ("step", "val/loss"):
        expected = end(one, processes=1)[figure]
        assert end(both, processes=2)[figure] == pytest.approx(expected, rel=0.01)


def test_processes_of_a_script_s_own_srun_share_a_folder(sweep):
    command = ["srun", "--ntasks-per-node=2", "--nodes=1", "--kill-on-bad-exit", PROGRAM, *SMALL]
    options = ["trainer.devices=2", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    ended = subprocess.run(
        [*command, *options],
        cwd=sweep.folder,
        env=sweep.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run,) = (sweep.folder / "outputs" / "bioscan_sample").iterdir()
    assert run.name.startswith("slurm-")
    end(run, processes=2)


def end(run: Path, processes: int) -> dict:
    """Return what the processes of a run ended with, which is the same for all."""
    ends = [json.loads((run / f"end-{rank}.json").read_text()) for rank in range(processes)]
    assert all(one == ends[0] for one in ends)
    return ends[0]


def seconds(run: Path) -> float:
    """Return how long training took, from its first step to its last validation."""
    return float((run / "seconds").read_text())
