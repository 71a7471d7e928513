"""Opening a split of a million specimens: time and memory, and what it costs each worker."""

import os
import tempfile
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from timing import QUICK

from projects.bioscan_clip.datasets.schema import RANKS, TEXT_IDS, TEXT_MASK
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset

ROWS, SPLIT = 5_000 if QUICK else 1_000_000, "no_split_and_seen_train"
TAXA = {"order": 20, "family": 600, "genus": 3_500, "species": 8_500, "uri": 90_000}


def write(path: Path) -> None:
    """Write a split whose photos take no room, since they are never written."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group(SPLIT)
        for column, taxa in TAXA.items():
            names = np.array([f"{column} number {taxon}".encode() for taxon in range(taxa)])
            group[column] = names[rng.integers(taxa, size=ROWS)]
        group["image_mask"] = rng.integers(1, 29_598, ROWS)
        group.create_dataset("image", (ROWS, 29_598), dtype=np.uint8)
        group["barcode"] = np.full(ROWS, b"ACGT" * 165)
        for column in (TEXT_IDS, TEXT_MASK):
            group.create_dataset(column, (ROWS, 20), dtype=np.int64)


def open_as_usual(path: Path) -> list[dict[str, str]]:
    """Read labels into a dictionary per specimen."""
    with h5py.File(path) as file:
        columns = [file[SPLIT][rank].asstr()[:] for rank in RANKS]
    return [dict(zip(RANKS, names, strict=True)) for names in zip(*columns, strict=True)]


def cost(work) -> tuple[float, float, object]:
    """Return seconds, and megabytes at the peak, measured one after the other."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    tracemalloc.start()
    result = work()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, megabytes, result


def own_megabytes() -> float:
    """Return the memory that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def growth_of_worker(dataset: BIOSCANInsectDataset) -> float:
    """Return the memory that a forked worker takes to read a thousand specimens, but for photos."""
    receiving, sending = os.pipe()
    if os.fork() == 0:
        before = own_megabytes()
        rows = np.random.default_rng(0).integers(ROWS, size=1_000)
        for start in range(0, len(rows), 100):
            chosen = rows[start : start + 100]
            _ = dataset._split.labels[chosen], dataset._read_dna(chosen, (0,))
        os.write(sending, f"{own_megabytes() - before}".encode())
        os._exit(0)
    os.close(sending)
    os.wait()
    return float(os.read(receiving, 100))


def main() -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.hdf5"
        write(path)
        usual_seconds, usual_megabytes, _ = cost(lambda: open_as_usual(path))
        seconds, megabytes, dataset = cost(lambda: BIOSCANInsectDataset(path, SPLIT))
        growth = growth_of_worker(dataset)
    console.print(f"Opening {ROWS:,} specimens       s      MB")
    console.print(f"a dictionary each      {usual_seconds:10.2f} {usual_megabytes:7.0f}")
    console.print(f"this project           {seconds:10.2f} {megabytes:7.0f}")
    console.print(f"and in each worker                {growth:7.0f}")


if __name__ == "__main__":
    main()
