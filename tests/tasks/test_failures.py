"""However a training ends, all of its processes do, and soon; with workers, as programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("failing.py")
SECONDS = 20  # less than 10 where tests have the machine to themselves


def start(folder: Path, failure: str, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), failure, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def output_of(process: subprocess.Popen) -> str:
    """Wait for all processes, which share one pipe; kill those that take longer."""
    try:
        return process.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"Still running after {SECONDS} s:\n{process.communicate()[0]}")


@pytest.mark.parametrize(
    ("failure", "options", "message"),
    [
        ("training worker", (), "a photo that does not decode"),
        ("validation worker", ("persistent",), "a photo that does not decode"),
        ("validation", (), "no keys"),
        ("step of rank 0", ("ranks",), "out of memory"),
        ("step of rank 0", ("ranks", "slow end"), "out of memory"),
        ("step of rank 1", ("ranks",), "out of memory"),
    ],
)
def test_an_error_ends_every_process(tmp_path, failure, options, message):
    process = start(tmp_path, failure, *options)
    wait_for(tmp_path / f"step.{failure[-1] if 'ranks' in options else 0}", process)
    output = output_of(process)
    assert message in output
    assert process.returncode not in (0, None)


def interrupt_all(process: subprocess.Popen) -> None:
    """As a terminal does for Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def terminate_all(process: subprocess.Popen) -> None:
    """As SLURM does before it preempts or cancels a job."""
    os.killpg(process.pid, signal.SIGTERM)


def kill(process: subprocess.Popen) -> None:
    process.kill()


@pytest.mark.parametrize(
    ("send", "options", "status"),
    [
        (interrupt_all, ("ranks",), 1),
        (kill, ("persistent",), -signal.SIGKILL),
    ],
)
def test_a_signal_ends_every_process(
    tmp_path: Path, send: Callable[[subprocess.Popen], None], options: tuple[str, ...], status: int
) -> None:
    process = start(tmp_path, "signal", *options)
    wait_for(tmp_path / "step.0", process)
    send(process)
    output = output_of(process)
    assert process.returncode == status, output


@pytest.mark.parametrize("options", [(), ("ranks",)])
def test_sigterm_saves_and_every_process_resumes_from_there(tmp_path, options):
    process = start(tmp_path, "signal", *options)
    wait_for(tmp_path / "step.0", process)
    terminate_all(process)
    output = output_of(process)
    assert process.returncode == 128 + signal.SIGTERM, output
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert step >= 4

    process = start(tmp_path, "none", *options)
    wait_for(tmp_path / f"began.0.{step}", process)
    output = output_of(process)
    assert process.returncode == 0, output
    for rank in range(1 + len(options)):  # the second one does not see the checkpoint by itself
        assert (tmp_path / f"began.{rank}.{step}").exists()


def test_sigterm_before_the_first_step(tmp_path):
    """There is nothing to save, but the training must not be taken for a finished one."""
    process = start(tmp_path, "signal in validation")
    wait_for(tmp_path / "step.0", process)
    process.terminate()
    output_of(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "last.ckpt").exists()
