"""The file that stands in for another one until that is complete, and the journal beside it."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from projects.bioscan_clip.datasets.hdf5 import PARTIAL_SUFFIX

_JOURNAL_SUFFIX = ".json"


@dataclass
class PartialFile:
    """A file that is being written.

    Attributes
    ----------
    path : pathlib.Path
        Where it is while it is written.
    handle : int
        File descriptor, open for reading and writing.
    plan : str
        What is written from what.
    rows_done : int or None
        Rows that an earlier call wrote; None if there was none.
    """

    path: Path
    handle: int
    plan: str
    rows_done: int | None

    def record(self, rows: int) -> None:
        """Bring what was written to the disk, and note in the journal that `rows` rows are done."""
        os.fsync(self.handle)
        journal = _journal(self.path)
        draft = journal.with_name(journal.name + ".new")
        with draft.open("w") as file:
            json.dump({"plan": self.plan, "rows": rows}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(journal)

    def allow_reading(self) -> None:
        """Let others open the file, though not to write it."""
        _lock(self.handle, fcntl.LOCK_SH, self.path)


@contextmanager
def partial_file(path: Path, plan: str, size: int) -> Iterator[PartialFile]:
    """Open the stand-in of a file; unless an error is raised, it takes the file's place at the end.

    Parameters
    ----------
    path : pathlib.Path
        The file to write. Its folder is made if there is none.
    plan : str
        What is written from what. A stand-in with the same plan can be continued.
    size : int
        Bytes of the complete file.

    Yields
    ------
    PartialFile
        The stand-in.

    Raises
    ------
    ValueError
        If the stand-in was begun with another plan, or another process writes it.
    OSError
        If the disk has too little room, or fills.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    _check_room(partial, size)
    handle = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle, fcntl.LOCK_EX, partial)
        yield PartialFile(partial, handle, plan, _rows_done(partial, plan))
        os.fsync(handle)
        partial.replace(path)
        _journal(partial).unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"The disk filled while {partial} was written. Make room, and run the same command "
            "again."
        ) from error
    finally:
        os.close(handle)


def _check_room(partial: Path, size: int) -> None:
    there = partial.stat().st_blocks * 512 if partial.exists() else 0
    free = shutil.disk_usage(partial.parent).free
    if free < size - there:
        raise OSError(
            f"Writing {partial} takes {size - there:,} bytes more, but its disk has {free:,} free. "
            "Make room, or write to another disk."
        )


def _lock(handle: int, kind: int, partial: Path) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{partial} is being written by another process.") from error
    except OSError:
        pass  # Some cluster disks have no locks.


def _rows_done(partial: Path, plan: str) -> int | None:
    """Return how many rows the journal says are written."""
    journal = _journal(partial)
    if partial.stat().st_size == 0:  # It was made just now, so that a journal is a left-over.
        journal.unlink(missing_ok=True)
    if not journal.exists():
        return None
    noted = json.loads(journal.read_text())
    if noted["plan"] != plan:
        raise ValueError(
            f"{partial} was begun from other data or with other options. Repeat the command that "
            f"began it to complete it, or delete {partial.name} to start over."
        )
    rows: int = noted["rows"]
    return rows


def _journal(partial: Path) -> Path:
    return partial.with_name(partial.name + _JOURNAL_SUFFIX)
