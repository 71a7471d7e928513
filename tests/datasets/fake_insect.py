"""A tiny INSECT in both layouts: each species has a colour and a sequence."""

import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy.io import savemat

SPECIES, PHOTOS = 9, 7
VALIDATION, UNSEEN = (5, 6), (7, 8)


@dataclass
class FakeInsect:
    ids: list[str]
    labels: np.ndarray
    barcodes: list[str]
    photos: list[bytes]
    features: np.ndarray
    splits: dict[str, np.ndarray]


def fake_insect() -> FakeInsect:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(SPECIES), PHOTOS))
    colours = rng.integers(30, 220, (SPECIES, 3))
    # Species of similar colours have similar barcodes.
    projected = (colours - 125) @ rng.normal(size=(3, 90)) / 60
    sequences = np.array(list("ACGT"))[projected.round().astype(int) % 4]
    photos = []
    for label in labels:
        pixels = colours[label] + rng.normal(size=3) * 25 + rng.integers(-30, 30, (24, 24, 3))
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG")
        photos.append(content.getvalue())
    features = colours[labels] + rng.normal(size=(len(labels), 3)) * 40
    known = np.flatnonzero(~np.isin(labels, UNSEEN))
    # Two photos of each species are tested.
    place = np.array([np.sum(labels[:row] == labels[row]) for row in known])
    trainval = known[place >= 2]
    is_validation = np.isin(labels[trainval], VALIDATION)
    return FakeInsect(
        ids=[f"BIOUG{row:05}" for row in range(len(labels))],
        labels=labels,
        barcodes=["".join(sequences[label]) for label in labels],
        photos=photos,
        features=features.astype(np.float32),
        splits={
            "trainval": trainval,
            "train": trainval[~is_validation],
            "val": trainval[is_validation],
            "test_seen": known[place < 2],
            "test_unseen": np.flatnonzero(np.isin(labels, UNSEEN)),
        },
    )


def write_photos(insect: FakeInsect, folder: Path) -> None:
    with h5py.File(folder / "INSECT_images.hdf5", "w") as file:
        for name, photo in zip(insect.ids, insect.photos, strict=True):
            file.create_dataset(f"images/{name}", data=np.frombuffer(photo, dtype=np.uint8))


def write_hub(insect: FakeInsect, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        {
            "bold_ids": insect.ids,
            "ids": insect.ids,
            "labels": insect.labels,
            "species": [f"Genus species{label}" for label in insect.labels],
            "nucleotides": insect.barcodes,
        }
    )
    for name, rows in insect.splits.items():
        table[name] = np.isin(np.arange(len(table)), rows).astype(int)
    table.to_csv(folder / "INSECT_metadata.csv", index=False)
    write_photos(insect, folder)
    return folder


def write_matlab(insect: FakeInsect, folder: Path, **changed: str) -> Path:
    """Write texts as cells and columns of one, as MATLAB has them; `changed` renames splits."""

    def cells(texts: list[str]) -> np.ndarray:
        column = np.empty((len(texts), 1), dtype=object)
        column[:, 0] = texts
        return column

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "features": insect.features.T,
        "labels": insect.labels[:, None] + 1,
        "ids": cells(insect.ids),
        "nucleotides": cells(insect.barcodes),
    }
    savemat(folder / "res101.mat", content)
    splits = {
        changed.get(name, f"{name}_loc"): rows[:, None] + 1 for name, rows in insect.splits.items()
    }
    savemat(folder / "att_splits.mat", splits)
    return folder
