"""Output files: checked before the work, written whole or not at all, with progress meanwhile."""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

_SECONDS_BETWEEN_LINES = 30.0


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name first, so that it is there whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        The file; its folder is made if missing.
    write : callable
        Writes the file that it is given.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def check_output(path: Path, inputs: Iterable[Path] = (), force: bool = False) -> Path:
    """Refuse to write where something would be lost; call it before the work.

    Parameters
    ----------
    path : pathlib.Path
        The file to write.
    inputs : iterable of pathlib.Path, optional
        Files that are read for it. None may be `path`, by whatever link.
    force : bool, default=False
        Whether a file that is there may be replaced.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ValueError
        If `path` is an input, a folder, or no regular file, or cannot be in its folder.
    FileExistsError
        If there is such a file, and not `force`.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: {folder} is not a folder.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written: {folder} is not writable for you.")
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to nothing. Name another file to write.")
    if not path.exists():
        return path
    for source in inputs:
        if source.exists() and path.samefile(source):
            raise ValueError(f"{path} is read ({source}), and would be replaced. Name another.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Name a file in it.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is no regular file. Name another file to write.")
    if not force:
        raise FileExistsError(f"{path} exists. Use --force to replace it, or name another file.")
    return path


class Advance(Protocol):
    """Says that `count` more are done."""

    def __call__(self, count: int = 1) -> None:
        """Advance by `count`."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show progress on the standard error: a bar in a terminal, else a line every half minute.

    Parameters
    ----------
    description : str
        What is done.
    total : int
        How many there are to do.

    Yields
    ------
    callable
        To be called with how many more are done.
    """
    if sys.stderr.isatty():
        with _bar(description, total) as advance:
            yield advance
        return
    done, printed = 0, time.monotonic()
    first: tuple[float, int] | None = None  # processes that do the work take their time to start

    def advance_and_print(count: int = 1) -> None:
        nonlocal done, printed, first
        done += count
        now = time.monotonic()
        first = first or (now, done)
        if now - printed >= _SECONDS_BETWEEN_LINES:
            printed = now
            seconds, since = now - first[0], done - first[1]
            left = f", {duration(seconds * (total - done) / since)} left" if since else ""
            share = f"{100 * done / max(total, 1):.0f}%"
            print(f"{description}: {share}{left}", file=sys.stderr, flush=True)

    yield advance_and_print


def duration(seconds: float) -> str:
    """Say how long something takes, as one would."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


@contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    # Rich takes 0.1 s to import, which only those who wait anyway should pay.
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count=1: bar.advance(task, count)
