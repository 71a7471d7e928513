"""Output files: nothing is lost, and nothing half written is taken for a file."""

import os
from pathlib import Path

import pytest

from projects.bioscan_clip import files


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    assert files.write_whole(path, lambda place: place.write_text("first")) == path

    def fail(place: Path) -> None:
        place.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        files.write_whole(path, fail)
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_new_file_may_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert files.check_output(path) == path
    assert not path.parent.exists()


def test_an_existing_file_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("kept")
    with pytest.raises(FileExistsError, match=r"a\.txt exists. Use --force"):
        files.check_output(path)
    assert files.check_output(path, force=True) == path


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_an_input_is_never_replaced(tmp_path: Path, link: str) -> None:
    source = tmp_path / "data.hdf5"
    source.write_text("data")
    path = source if link == "same" else tmp_path / "out.hdf5"
    if link == "symbolic":
        path.symlink_to(source)
    elif link == "hard":
        path.hardlink_to(source)
    with pytest.raises(ValueError, match="is read"):
        files.check_output(path, [source], force=True)


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    for path, reason in (
        (tmp_path, "is a folder"),
        (pipe, "no regular file"),
        (Path("/dev/null"), "no regular file"),
        (dangling, "link to nothing"),
        (pipe / "file", "is not a folder"),
    ):
        with pytest.raises(ValueError, match=reason):
            files.check_output(path, force=True)


def test_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How long the first took to come says nothing about the others."""
    times = iter([0.0, 40.0, 50.0, 80.0, 2000.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with files.progress("Reading", 100) as advance:
        for count in (10, 1, 9, 79):
            advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "Reading: 10%",
        "Reading: 20%, 5 min left",
        "Reading: 99%, 22 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(29, "29 s"), (61, "1 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert files.duration(seconds) == text
