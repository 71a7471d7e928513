"""Draw the pictures of README and docs from what `make demo` left."""

import io
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from rich.console import Console

from projects.bioscan_clip.tasks.reports.console import print_accuracy
from projects.bioscan_clip.tasks.reports.metrics_files import load_metrics

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SPECIES, SPECIMENS, SIZE = 10, 7, (150, 112)


def draw_table() -> None:
    """Draw the accuracies as a terminal shows them."""
    console = Console(record=True, width=80, file=io.StringIO())
    print_accuracy(load_metrics(ROOT / "outputs" / "demo" / "eval"), console=console)
    console.save_svg(str(DOCS / "demo.svg"), title="make demo")


def draw_specimens() -> None:
    """Draw some specimens of some species, one row each."""
    with h5py.File(ROOT / "data" / "bioscan_sample.hdf5") as file:
        split = file["train_seen"]
        species = split["species"][:]
        names, counts = np.unique(species, return_counts=True)
        common = names[counts >= SPECIMENS]
        chosen = common[np.linspace(0, len(common) - 1, SPECIES).astype(int)]
        sheet = Image.new("RGB", (SPECIMENS * SIZE[0], SPECIES * SIZE[1]))
        for row, name in enumerate(chosen):
            for column, index in enumerate(np.flatnonzero(species == name)[:SPECIMENS]):
                jpeg = split["image"][index, : split["image_mask"][index]].tobytes()
                photo = Image.open(io.BytesIO(jpeg)).resize(SIZE)
                sheet.paste(photo, (column * SIZE[0], row * SIZE[1]))
    sheet.save(DOCS / "sample.jpg", quality=85)


if __name__ == "__main__":
    draw_table()
    draw_specimens()
