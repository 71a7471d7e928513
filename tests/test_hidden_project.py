"""A clone of mmlearn on Python's path hides this project, since its `projects` is a package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "bioscan-clip": "from hydra_plugins.bioscan_clip import main; main()",
    "mmlearn_run": "from mmlearn.cli.run import main; main()",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_says_what_hides_it_and_what_to_do(tmp_path, program):
    clone = tmp_path / "mmlearn" / "projects" / "bioscan_clip"
    (clone / "configs").mkdir(parents=True)
    for folder in (clone.parent, clone, clone / "configs"):
        (folder / "__init__.py").touch()
    path = os.pathsep.join([str(clone.parents[1]), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAMS[program], "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert f"{clone.parent} is imported as `projects`, which hides the project" in run.stderr
    assert "pip install 'mmlearn" in run.stderr
    if program == "bioscan-clip":  # mmlearn_run runs on: the clone's may be meant
        assert run.returncode == 1
