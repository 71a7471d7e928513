"""Pictures from many small files, checked and laid end to end in one file.

Reading a million small files is the long part of building a data file, so what was read is kept:
after a kill, reading goes on after the last block.
"""

import io
import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from projects.bioscan_clip.data_tools.cores import available_cores

IntArray = npt.NDArray[np.int64]

_BLOCK = 4096
_AT_ONCE = 64


class Spool:
    """Values of N specimens, end to end in one file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    lengths : numpy.ndarray
        int64, shape ``(N,)``: bytes of each value; 0 where there is none.
    """

    def __init__(self, path: Path, lengths: IntArray) -> None:
        self.lengths = lengths
        self._starts = np.cumsum(lengths) - lengths
        empty = path.stat().st_size == 0  # which cannot be mapped
        self._values = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r")

    def read(self, specimens: IntArray) -> list[npt.NDArray[np.uint8]]:
        """Return the values of specimens, uint8, shape ``(lengths[i],)`` each."""
        places = zip(self._starts[specimens], self.lengths[specimens], strict=True)
        return [self._values[start : start + length] for start, length in places]


def spool_photos(
    paths: Sequence[Path], spool: Path, identity: str, processes: int | None = None
) -> tuple[Spool, dict[int, str]]:
    """Read pictures in parallel, check that they decode, and lay their bytes end to end.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        One JPEG per specimen.
    spool : pathlib.Path
        Where to. With a journal beside it, it can be completed after a kill.
    identity : str
        What is read, and from where.
    processes : int, optional
        Processes that read. Defaults to the number of cores.

    Returns
    -------
    spool : Spool
        The bytes of the pictures, without those that are missing or broken.
    problems : dict of int to str
        By position, why a picture is left out.

    Raises
    ------
    ValueError
        If the spool was begun with another `identity`.
    OSError
        If the disk fills.
    """
    journal = _journal(spool)
    with spool.open("ab") as pictures, journal.open("a+b") as notes:
        lengths, problems = _read_journal(notes, identity, spool)
        pictures.truncate(sum(lengths))
        with (
            multiprocessing.get_context("spawn").Pool(processes or available_cores()) as pool,
            _progress() as progress,
        ):
            task = progress.add_task("Reading pictures", total=len(paths), completed=len(lengths))
            while len(lengths) < len(paths):
                block = paths[len(lengths) : len(lengths) + _BLOCK]
                results = pool.map(read_photo, block, chunksize=_AT_ONCE)
                written = [pictures.write(r) if isinstance(r, bytes) else 0 for r in results]
                found = {
                    len(lengths) + place: result
                    for place, result in enumerate(results)
                    if isinstance(result, str)
                }
                _keep(pictures)
                _note(notes, {"lengths": written, "problems": found})
                lengths += written
                problems |= found
                progress.advance(task, len(block))
    return Spool(spool, np.array(lengths, dtype=np.int64)), problems


def remove_spool(spool: Path) -> None:
    """Delete a spool and its journal."""
    spool.unlink(missing_ok=True)
    _journal(spool).unlink(missing_ok=True)


def read_photo(path: Path) -> bytes | str:
    """Return the bytes of a JPEG that decodes, or a text that says why there is none."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as photo:
            photo.load()
            if photo.format != "JPEG":
                return f"is a {photo.format}, not a JPEG"
    except FileNotFoundError:
        return "is missing"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"does not decode: {error}"
    return content


def _read_journal(notes: IO[bytes], identity: str, spool: Path) -> tuple[list[int], dict[int, str]]:
    """Return what earlier calls read; leave a new or whole journal, at whose end to write."""
    notes.seek(0)
    lines = notes.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):  # cut off while it was written
        notes.truncate(sum(map(len, lines[:-1])))
        lines.pop()
    if not lines:
        _note(notes, {"identity": identity})
        return [], {}
    if json.loads(lines[0])["identity"] != identity:
        raise ValueError(
            f"{spool} holds pictures of other specimens or from another place. Repeat the command "
            f"that began it, or delete {spool} and {_journal(spool).name} to start over."
        )
    lengths: list[int] = []
    problems: dict[int, str] = {}
    for line in lines[1:]:
        noted = json.loads(line)
        lengths += noted["lengths"]
        problems |= {int(place): reason for place, reason in noted["problems"].items()}
    return lengths, problems


def _note(notes: IO[bytes], value: object) -> None:
    notes.write(json.dumps(value).encode() + b"\n")
    _keep(notes)


def _keep(file: IO[bytes]) -> None:
    """Bring what was written to the disk, so that a journal never tells of more than there is."""
    file.flush()
    os.fsync(file.fileno())


def _journal(spool: Path) -> Path:
    return spool.with_name(spool.name + ".journal")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
