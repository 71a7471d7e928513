"""A folder in the layout that `bioscan-dataset` keeps, made from the specimens of a sample file."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from bioscan_dataset import BIOSCAN1M, BIOSCAN5M

from projects.bioscan_clip.data_tools.splits import BASE_SPLITS, UNIONS
from projects.bioscan_clip.datasets.schema import RANKS

TO_5M = {
    "no_split": "pretrain",
    "single_species": "pretrain",
    "train_seen": "train",
    "seen_keys": "train",
    "val_seen": "val",
    "test_seen": "test",
    "val_unseen": "val_unseen",
    "test_unseen": "test_unseen",
    "val_unseen_keys": "key_unseen",
    "test_unseen_keys": "key_unseen",
}
COLUMNS = {"sampleid": "sampleid", "processid": "processid", "uri": "uri", "barcode": "nucraw"}


def specimens_of(path: Path, copies: int) -> tuple[pd.DataFrame, list[bytes]]:
    """Return the specimens of a 1M-like file, `copies` times with ids of their own."""
    rows: list[dict] = []
    photos: list[bytes] = []
    with h5py.File(path) as file:
        singletons = set(file["single_species"]["sampleid"][:])
        for split in BASE_SPLITS:
            group = file[split]
            columns = {name: group[name][:] for name in (*COLUMNS, *RANKS)}
            for row, length in enumerate(group["image_mask"][:]):
                if split == "no_split" and columns["sampleid"][row] in singletons:
                    continue  # published lists name a specimen in one split
                values = {name: column[row].decode() for name, column in columns.items()}
                rows.append(values | {"split": split})
                photos.append(group["image"][row, :length].tobytes())
    repeated = [
        row | {key: f"{row[key]}-{copy}" for key in ("sampleid", "processid")}
        for copy in range(copies)
        for row in rows
    ]
    return pd.DataFrame(repeated), photos * copies


def write_1m(root: Path, table: pd.DataFrame, photos: list[bytes]) -> None:
    """Write metadata, partition and pictures of BIOSCAN-1M below `root`."""
    folder = root / BIOSCAN1M.base_folder
    metadata = table.rename(columns=COLUMNS).drop(columns="split")
    metadata["image_file"] = metadata["processid"] + ".jpg"
    metadata["chunk_number"] = np.arange(len(metadata)) % 3 + 1
    for column in ("phylum", "class", "subfamily", "tribe"):
        metadata[column] = "not_classified"
    folder.mkdir(parents=True)
    metadata.to_csv(folder / BIOSCAN1M.meta["filename"], sep="\t", index=False)
    lists = folder / "CLIBD_partitioning"
    lists.mkdir()
    for name, parts in ({name: (name,) for name in BASE_SPLITS} | dict(UNIONS)).items():
        own = (name,) if name == "no_split" else parts  # published: without single_species
        ids = table["sampleid"][table["split"].isin(own)]
        (lists / f"{name}.txt").write_text("".join(f"{each}\n" for each in ids))
    for chunk, name, photo in zip(
        metadata["chunk_number"], metadata["image_file"], photos, strict=True
    ):
        path = folder / "images" / "cropped_256" / f"part{chunk}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)


def write_5m(root: Path, table: pd.DataFrame, photos: list[bytes]) -> None:
    """Write metadata and pictures of BIOSCAN-5M below `root`."""
    metadata = table.rename(columns={"barcode": "dna_barcode", "uri": "dna_bin"})
    metadata = metadata.replace("not_classified", None)
    metadata["split"] = metadata["split"].map(TO_5M)
    metadata["chunk"] = np.where(metadata["split"] == "pretrain", "0a", None)
    for column in ("phylum", "class", "subfamily", "country", "province_state"):
        metadata[column] = "any"
    for column in ("coord-lat", "coord-lon", "image_measurement_value", "area_fraction"):
        metadata[column] = 0.5
    metadata["scale_factor"] = 1.0
    path = root / BIOSCAN5M.base_folder / BIOSCAN5M.meta["filename"]
    path.parent.mkdir(parents=True)
    metadata.to_csv(path, index=False)
    images = root / BIOSCAN5M.base_folder / "images" / "cropped_256"
    for row, photo in zip(metadata.itertuples(), photos, strict=True):
        chunk = [row.chunk] if row.chunk is not None else []
        target = images.joinpath(row.split, *chunk, f"{row.processid}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo)
