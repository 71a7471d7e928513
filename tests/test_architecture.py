"""Arrows between rooms go one way, and importing this project is cheap."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "projects.bioscan_clip"
ROOT = Path(__file__).parents[1]
# From the top to the bottom: a room imports only from rows below its own.
ROWS = (
    ("cli",),
    ("configs", "sample", "doctor"),
    ("tasks", "data_tools", "inference"),
    ("reports",),
    ("scoring",),
    ("encoders",),
    ("datasets",),
    ("files", "arguments"),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}


def rooms() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    folder = ROOT / PACKAGE.replace(".", "/")
    for path in folder.rglob("*.py"):
        found.setdefault(path.relative_to(folder).with_suffix("").parts[0], []).append(path)
    return {room: paths for room, paths in found.items() if room != "__init__"}


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports anywhere, and what it takes from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_its_row():
    assert set(rooms()) == set(ROW_OF)


@pytest.mark.parametrize("room", ROW_OF)
def test_a_room_imports_only_from_below(room):
    upwards = {
        (str(path.relative_to(ROOT)), name)
        for path in rooms()[room]
        for name in imported(path)
        if name.startswith(f"{PACKAGE}.")
        and (other := name.split(".")[2]) != room
        and ROW_OF[other] <= ROW_OF[room]
    }
    assert not upwards


@pytest.mark.parametrize("room", ["scoring", "reports"])
def test_scores_and_pages_know_neither_lightning_nor_mmlearn(room):
    tops = {name.split(".")[0] for path in rooms()[room] for name in imported(path)}
    assert not tops & {"lightning", "pytorch_lightning", "mmlearn"}


def test_experiments_add_little_to_the_import_of_mmlearn():
    """CPU seconds of what `mmlearn_run` imports with and without this project; best of three."""
    program = (
        "import sys, time, mmlearn.cli.run; start = time.process_time();"
        "import projects.bioscan_clip.configs; print(time.process_time() - start);"
        "print(sorted({'pacmap', 'plotly', 'faiss', 'bioscan_dataset'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
        )
        added, slow = run.stdout.splitlines()
        assert slow == "[]"
        seconds.append(float(added))
        if min(seconds) < 1:
            break
    assert min(seconds) < 1


def test_files_that_the_page_on_architecture_names_are_there():
    page = (ROOT / "docs" / "architecture.md").read_text().split("Which file do I open")[1]
    package, last = ROOT / PACKAGE.replace(".", "/"), Path()
    for name in re.findall(r"`([\w/.]+(?:\.\w+|/))`", page):
        folder = ROOT if name.startswith(("projects", "tests", "benchmarks")) else package
        last = Path(name).parent if "/" in name.rstrip("/") else last
        if name not in ("tests/x/", "x/y.py"):
            assert (folder / name).exists() or (package / last / name).exists(), name
