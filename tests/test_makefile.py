"""`make install` finds a Python that is fit, and makes `.venv` anew where it must."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUB = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
  exec {real} -c 'import sys; sys.version_info = ({version}, 0); exec(sys.argv[1])' "$2"
elif [ "$2" = venv ]; then
  mkdir -p .venv/bin .venv/lib/python{dotted} && cp "$0" .venv/bin/python
fi
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that runs `make install` where some Pythons are, and where no uv is."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "make", "mkdir", "cp", "rm", "touch", "env"):
        (programs / name).symlink_to(shutil.which(name))

    def run(**pythons: str) -> subprocess.CompletedProcess:
        for name, version in pythons.items():
            write_python(programs / name.replace("_", "."), version)
        return subprocess.run(
            ["make", "install"],
            cwd=tmp_path,
            env={"PATH": str(programs)},
            capture_output=True,
            text=True,
        )

    return run


def write_python(path: Path, version: str) -> None:
    dotted = version.replace(", ", ".")
    path.write_text(STUB.format(real=sys.executable, version=version, dotted=dotted))
    path.chmod(0o755)


def versions(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".venv" / "lib").iterdir()]


def test_takes_the_first_that_is_fit(make, tmp_path):
    assert make(python3="3, 11", python3_12="3, 12").returncode == 0
    assert versions(tmp_path) == ["python3.12"]


@pytest.mark.parametrize("wrong", ["3, 10", "3, 13"])
def test_says_what_is_needed_and_keeps_no_wrong_venv(make, tmp_path, wrong):
    failed = make(python3=wrong)
    assert failed.returncode != 0
    assert "Python 3.11 or 3.12, with venv, is needed" in failed.stderr
    assert not (tmp_path / ".venv").exists()
    assert make(python3="3, 11").returncode == 0
    assert versions(tmp_path) == ["python3.11"]


def test_makes_a_venv_anew_when_its_python_changed(make, tmp_path):
    make(python3="3, 11")
    kept = tmp_path / ".venv" / "kept"
    kept.touch()
    make(python3="3, 11")
    assert kept.exists()
    write_python(tmp_path / ".venv" / "bin" / "python", "3, 12")
    assert make().returncode == 0
    assert versions(tmp_path) == ["python3.11"]
    assert not kept.exists()
