"""Write a few test specimens of the demo as people have them: photos, and barcodes in a FASTA file.

`python docs/few_specimens.py FILE.hdf5 FOLDER`
"""

import sys
from pathlib import Path

import h5py
import numpy as np

COUNT = 3  # of each: photos and barcodes, of species that training has seen and of others


def main(source: Path, folder: Path) -> None:
    """Write `photos/*.jpg` and `barcodes.fasta`, each named by its specimen's species."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    records = []
    with h5py.File(source) as file:
        for split in ("test_seen", "test_unseen"):
            group = file[split]
            rows = np.linspace(0, len(group["species"]) - 1, 2 * COUNT).astype(int)
            for number, row in enumerate(rows):
                name = f"{group['species'][row].decode().replace(' ', '_')}_{row}"
                if number % 2:
                    records.append(f">{name}\n{group['barcode'][row].decode()}\n")
                else:
                    jpeg = group["image"][row, : group["image_mask"][row]].tobytes()
                    (photos / f"{name}.jpg").write_bytes(jpeg)
    (folder / "barcodes.fasta").write_text("".join(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
