"""What a photo costs that is on disk only, by how it is stored and in which order photos come.

Single rows stand for a file far larger than memory: they are too few to share what was read.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from published_style import ROW_BYTES, SPLIT, published_style_file
from rich.console import Console
from rich.table import Table
from timing import QUICK

from projects.bioscan_clip.datasets.hdf5 import HDF5Split
from projects.bioscan_clip.datasets.loader import WindowedSampler

ROWS, WINDOW, BATCH = (64, 32, 16) if QUICK else (32_768, 16_384, 400)
STORED = {"rows": {}, "chunks of the 5M builder": {"chunks": (32, 1850)}}


def orders() -> dict[str, np.ndarray]:
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).numpy()
    windowed = np.array(list(WindowedSampler(range(ROWS), WINDOW)))
    whole = np.flatnonzero(np.abs(np.diff(windowed)) >= WINDOW)[-1] + 1  # the last window's start
    return {
        "full shuffle": shuffled[:400],
        f"window of {WINDOW:,}": windowed[whole:],
        "in order": np.arange(min(ROWS, 8_000)),
    }


def forget(path: Path) -> None:
    """Drop a file from the memory of the operating system."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def measure(path: Path, rows: np.ndarray) -> tuple[float, float]:
    """Return bytes from disk per row, and rows per second."""
    split = HDF5Split(path, SPLIT, ("image",))
    forget(path)
    before, start = bytes_from_disk(), time.perf_counter()
    for first in range(0, len(rows), BATCH):
        split.read_jpegs(rows[first : first + BATCH])
    seconds = time.perf_counter() - start
    return (bytes_from_disk() - before) / len(rows), len(rows) / seconds


def main() -> None:
    table = Table(title=f"Photos of 18 kB in rows of {ROW_BYTES:,} bytes, not in memory")
    for heading in ("stored as", "read", "kB from disk a photo", "photos/s"):
        table.add_column(heading, justify="left" if heading in ("stored as", "read") else "right")
    for name, options in STORED.items():
        with published_style_file(ROWS, **options) as path:
            for order, rows in orders().items():
                read, rate = measure(path, rows)
                table.add_row(name, order, f"{read / 1e3:,.0f}", f"{rate:,.0f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
