"""Processes end with the command that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import os, time
from projects.bioscan_clip.data_tools.processes import processes_for
if __name__ == "__main__":
    with processes_for("slept", 1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def is_running(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().split(") ")[1][0] != "Z"


def test_a_killed_command_leaves_no_process(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    worker = int(command.stdout.readline())
    assert is_running(worker)
    command.send_signal(signal.SIGKILL)
    command.wait()
    deadline = time.monotonic() + 10
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)
