"""Specimens per second and core: this project's loader against the usual pipeline.

Photos of 341 x 256 pixels and 18 kB, barcodes, names and labels, in batches of 400, from a file
that the operating system has in memory.
"""

from pathlib import Path

import h5py
import torch
from mmlearn.datasets.core import CombinedDataset
from published_style import SPLIT, UsualDataset, published_style_file
from rich.console import Console
from rich.table import Table
from timing import QUICK, shortest
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image

from projects.bioscan_clip.datasets.loader import SpecimenLoader
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.transforms import finish_batch

SPECIMENS, BATCH, REPEATS = (40, 20, 1) if QUICK else (8_000, 400, 3)
WORKERS = (0, 1) if QUICK else (0, 1, 2)
OF_THE_USUAL = 800  # which is as fast in a short pass as in a long one
HEADINGS = ("", "workers", "usual", "ours", "", "of decoding", "MB/s", "all on the CPU", "")


def decoded_per_second(path: Path) -> float:
    """Return what decoding alone allows, with the JPEGs in memory."""
    with h5py.File(path) as file:
        lengths, images = file[SPLIT]["image_mask"][:256], file[SPLIT]["image"][:256]
    jpegs = [torch.from_numpy(row[:n]) for row, n in zip(images, lengths, strict=True)]

    def decode() -> None:
        for jpeg in jpegs:
            decode_image(jpeg, mode=ImageReadMode.RGB)

    return len(jpegs) / shortest(decode, 4 * REPEATS)


def delivered_per_second(loader: DataLoader, finishes: bool = False) -> float:
    """Return specimens per second and core of one pass."""

    def load() -> None:
        for batch in loader:
            if finishes:
                finish_batch(batch)

    return len(loader.sampler) / shortest(load, REPEATS) / max(loader.num_workers, 1)


def measure(path: Path, for_training: bool, workers: int) -> tuple[float, float, float]:
    """Return specimens per second and core: usual, delivered by ours, finished on the CPU."""
    order = torch.randperm(SPECIMENS) if for_training else torch.arange(SPECIMENS)
    options = {"batch_size": BATCH, "num_workers": workers}
    usual = DataLoader(
        UsualDataset(path, for_training), sampler=order[:OF_THE_USUAL].tolist(), **options
    )
    dataset = CombinedDataset([BIOSCANInsectDataset(path, SPLIT, for_training=for_training)])
    ours = SpecimenLoader(dataset, sampler=order.tolist(), **options)
    return (
        delivered_per_second(usual),
        delivered_per_second(ours),
        delivered_per_second(ours, finishes=True),
    )


def main() -> None:
    torch.set_num_threads(1)
    table = Table(title="Specimens per second and core")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    with published_style_file(SPECIMENS) as path:
        limit = decoded_per_second(path)
        with h5py.File(path) as file:
            kilobytes = file[SPLIT]["image_mask"][:].mean() / 1e3
        for for_training in (True, False):
            for workers in WORKERS:
                usual, ours, finished = measure(path, for_training, workers)
                table.add_row(
                    "training" if for_training else "evaluation",
                    str(workers),
                    f"{usual:,.0f}",
                    f"{ours:,.0f}",
                    f"{ours / usual:.1f} x",
                    f"{ours / limit:.0%}",
                    f"{ours * kilobytes / 1e3:.0f}",
                    f"{finished:,.0f}",
                    f"{finished / usual:.1f} x",
                )
    console = Console(width=100)
    console.print(table)
    console.print(f"Decoding alone: {limit:,.0f} photos/s on one core, {kilobytes:.1f} kB each")


if __name__ == "__main__":
    main()
