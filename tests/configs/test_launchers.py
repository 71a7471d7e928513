"""The presets of `hydra/launcher`, by what the installed launcher makes of them for sbatch."""

import subprocess

import pytest
import submitit
from hydra import compose
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from submitit.slurm.slurm import SlurmExecutor

COMMON = {
    "--time=1440",
    "--signal=USR2@180",
    "--cpus-per-task=8",
    "--open-mode=append",
    "--requeue",
    "--job-name=bioscan_sample",
}
PRESETS = {
    "slurm_1gpu": {"--nodes=1", "--gpus-per-node=1", "--ntasks-per-node=1", "--mem=32GB"},
    "slurm_node": {"--nodes=1", "--gpus-per-node=4", "--ntasks-per-node=4", "--mem=128GB"},
    "slurm_nodes": {"--nodes=3", "--gpus-per-node=4", "--ntasks-per-node=4", "--mem=128GB"},
}


def composed(*overrides: str):
    overrides = ("+experiment=bioscan_sample", *overrides)
    return compose("base_config", overrides=list(overrides), return_hydra_config=True)


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """Return a function that launches a job and gives submitit's executor, which keeps it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 1))  # without srun
    executors = []

    def keep(executor, *arguments):
        executors.append(executor._executor)
        return []

    monkeypatch.setattr(submitit.AutoExecutor, "map_array", keep)

    def launch(*overrides: str) -> SlurmExecutor:
        config = composed(*overrides)
        launcher = instantiate(config.hydra.launcher)
        launcher.config = config
        launcher.launch([["seed=0"]], 0)
        return executors.pop()

    return launch


def script(executor: SlurmExecutor) -> list[str]:
    return executor._make_submission_file_text("COMMAND", "id").splitlines()


def options(executor: SlurmExecutor) -> set[str]:
    lines = [line for line in script(executor) if line.startswith("#SBATCH ")]
    return {line.removeprefix("#SBATCH ") for line in lines}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_asks_for(submitted, preset):
    executor = submitted(f"hydra/launcher={preset}", "trainer.num_nodes=3")
    found = options(executor)
    assert found >= COMMON | PRESETS[preset]
    assert executor.max_num_timeout == 100
    # What nobody has set is not passed on: SLURM may refuse an empty one.
    names = {option.split("=")[0] for option in found}
    assert not names & {"--partition", "--qos", "--account", "--gres", "--constraint", "--error"}
    (log,) = (option for option in found if option.startswith("--output="))
    assert "/slurm/%j/%j_0_log.out" in log


def test_errors_of_a_job_are_in_its_log(caplog):
    callback = composed("hydra/launcher=slurm_nodes").hydra.callbacks.errors_in_log
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("what is wrong")
    instantiate(callback).on_job_end(config=None, job_return=failed)
    assert "what is wrong" in caplog.text


def test_processes_follow_gpus_and_options_of_the_user_win(submitted):
    found = options(
        submitted(
            "hydra/launcher=slurm_node",
            "hydra.launcher.gpus_per_node=2",
            "hydra.launcher.partition=a40",
            "hydra.launcher.qos=normal",
            "hydra.launcher.timeout_min=60",
            "+hydra.launcher.additional_parameters={export: ALL}",
        )
    )
    assert found >= {"--gpus-per-node=2", "--ntasks-per-node=2", "--partition=a40"}
    assert found >= {"--qos=normal", "--time=60", "--export=ALL", "--requeue"}


@pytest.mark.parametrize(
    ("status", "environment", "requeued"),
    [
        (137, {}, "7"),
        (137, {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1"}, "5_1"),
        (137, {"SLURM_RESTART_COUNT": "19"}, "7"),
        (137, {"SLURM_RESTART_COUNT": "20"}, ""),
        (1, {}, ""),
        (0, {}, ""),
    ],
    ids=["killed", "killed in an array", "again", "too often", "failed", "succeeded"],
)
def test_script_requeues_what_was_killed(submitted, tmp_path, status, environment, requeued):
    text = "\n".join(script(submitted("hydra/launcher=slurm_1gpu")))
    srun = next(line for line in text.splitlines() if line.startswith("srun "))
    programs = "scontrol() { echo $1 $2; }; "  # in place of SLURM's
    result = subprocess.run(
        ["bash", "-c", programs + text.replace(srun, f"bash -c 'exit {status}'")],
        env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "7", **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.stdout.strip() == (f"requeue {requeued}" if requeued else "")
    assert result.stderr == ""
    assert result.returncode == status
