"""A SLURM of two nodes on this machine, all of it in one folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
PORTS = ("controller", "n1", "n2")

CONFIG = """
ClusterName=local
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits for as long as a credential may live, 120 s unless said otherwise.
AuthInfo=socket={folder}/munge.sock,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
SlurmctldPort={ports[controller]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
KillWait=5
MaxJobCount=500
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=DEFAULT CPUs=64 RealMemory=500000 Gres=gpu:4
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[n1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[n2]}
PartitionName=a40 Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Return the programs of SLURM that this machine lacks."""
    return [name for name in NEEDED if shutil.which(name, path=_path()) is None]


class Slurm:
    """Starts the daemons on entry and stops them, with all jobs, on exit.

    Parameters
    ----------
    folder : pathlib.Path
        Where everything of it lies; nothing else is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": _path(),
            "SLURM_CONF": str(folder / "slurm.conf"),
            # The nodes' names are known to SLURM only; on a cluster they resolve.
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.environment.pop("CI", None)

    def __enter__(self) -> "Slurm":
        try:
            self._write_files()
            self.run(
                "munged",
                "--force",
                f"--key-file={self.folder}/munge.key",
                f"--seed-file={self.folder}/munge.seed",
                f"--socket={self.folder}/munge.sock",
                f"--pid-file={self.folder}/munge.pid",
                f"--log-file={self.folder}/log/munge.log",
            )
            self.run("slurmctld", "-f", self.environment["SLURM_CONF"])
            for node in ("n1", "n2"):
                self.run("slurmd", "-f", self.environment["SLURM_CONF"], "-N", node)
            wait_until(self._idle, seconds=60, what="both nodes to be idle")
        except BaseException:
            self._print_logs()
            self._stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel_all()
        self._stop()

    def run(self, *command: str) -> str:
        """Return what a command prints; it must succeed within a minute."""
        result = subprocess.run(
            command, env=self.environment, text=True, capture_output=True, timeout=60, check=False
        )
        assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
        return result.stdout

    def job(self, job: str) -> dict[str, str]:
        """Return the fields of a job, such as JobState and Restarts, as SLURM shows them."""
        shown = self.run("scontrol", "show", "job", "--oneliner", job)
        return dict(field.split("=", 1) for field in shown.split() if "=" in field)

    def jobs(self) -> list[str]:
        """Return the ids of the jobs that are not over, tasks of arrays one by one."""
        return self.run("squeue", "--noheader", "--array", "--format=%i").split()

    def processes(self, job: str) -> list[int]:
        """Return the ids of the processes that SLURM has started as a job's tasks."""
        of_job = f"SLURM_JOB_ID={self.job(job)['JobId']}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = Path("/proc", (path / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                is_task = (parent / "comm").read_text().startswith("slurmstepd")
                is_python = b"submitit.core._submit" in (path / "cmdline").read_bytes()
                is_of_job = of_job in (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            if is_task and is_python and is_of_job:
                found.append(int(path.name))
        return sorted(found)

    def cancel_all(self) -> None:
        """Cancel what is left, and wait until it is gone."""
        self.run("scancel", f"--user={getpass.getuser()}")
        wait_until(lambda: not self.jobs(), seconds=60, what="cancelled jobs to be gone")

    def _write_files(self) -> None:
        for name in ("log", "state", "dev"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for number in range(4):  # "GPUs": a number without files is refused
            (self.folder / "dev" / f"gpu{number}").touch()
        host = socket.gethostname().split(".")[0]
        config = CONFIG.format(
            host=host, user=getpass.getuser(), folder=self.folder, ports=_free_ports()
        )
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "gres.conf").write_text(
            f"NodeName=n1,n2 Name=gpu File={self.folder}/dev/gpu[0-3]\n"
        )

    def _idle(self) -> bool:
        states = self.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        return states == ["idle", "idle"]

    def _stop(self) -> None:
        """Stop the daemons that were started here, known by their pid files."""
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munge"):
            path = self.folder / f"{name}.pid"
            if not path.exists():
                continue
            pid = int(path.read_text())
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not _alive(pid), seconds=30, what=f"{name} to stop")

    def _print_logs(self) -> None:
        for path in sorted((self.folder / "log").glob("*.log")):
            print(f"--- {path.name}\n{path.read_text()[-3000:]}")


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something, but not for ever."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.1)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where Debian has the daemons


def _free_ports() -> dict[str, int]:
    sockets = [socket.socket() for _ in PORTS]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()


def _alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False
