"""Embeddings as a file that CLIBD's tools read too, and back.

CLIBD writes one HDF5 file a split, ``extracted_features_of_{split}.hdf5``, with the datasets
``encoded_image_feature``, ``encoded_dna_feature`` and ``encoded_language_feature`` (N, D),
``order_list``, ``family_list``, ``genus_list`` and ``species_list`` (N,), and ids as ``file_name``
(BIOSCAN-1M) or ``processid`` (BIOSCAN-5M). ``embeddings.hdf5`` has a group of these for each split,
by CLIBD's names of splits, and ``is_seen`` (N,) says which of ``all_keys`` are of seen species.
Features that CLIBD publishes come otherwise: see
:mod:`~projects.bioscan_clip.reports.clibd_features`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
import torch

from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_taxa
from projects.bioscan_clip.reports.clibd_features import (
    PUBLISHED,
    Split,
    is_published,
    published_splits,
)
from projects.bioscan_clip.reports.metrics_files import write_whole
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.specimens import Specimens, as_table
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.search import blocks

FILE_NAME: Final = "embeddings.hdf5"
_CLIBD_FILE: Final = "extracted_features_of_{}.hdf5"
_DATASETS: Final = {
    "rgb": "encoded_image_feature",
    "dna": "encoded_dna_feature",
    "text": "encoded_language_feature",
}
_IDS: Final = {"image_file": "file_name", "processid": "processid", "sampleid": "sampleid"}
_KEYS: Final = "all_keys"

_SEEN_KEYS: Final = "seen_keys"
_IS_SEEN: Final = "is_seen"
_ROWS_AT_ONCE: Final = 1 << 14


def save_embeddings(sets: EvaluatedSets, folder: Path) -> Path:
    """Write ``embeddings.hdf5``.

    Parameters
    ----------
    sets : EvaluatedSets
        What to write.
    folder : pathlib.Path
        Where to.

    Returns
    -------
    pathlib.Path
        The file.
    """

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for role, split in _splits(sets.stage).items():
                if role in sets.embeddings:
                    group = file.create_group(split)
                    _write(group, sets.embeddings[role], sets.specimens[role])
            if sets.seen_key is not None:
                file[_KEYS][_IS_SEEN] = sets.seen_key.cpu().numpy()

    return write_whole(folder / FILE_NAME, write)


def load_embeddings(path: Path) -> EvaluatedSets:
    """Read embeddings of keys and queries.

    Parameters
    ----------
    path : pathlib.Path
        ``embeddings.hdf5``, CLIBD's ``extracted_feature_from_{test|val}_split.hdf5``, a folder that
        holds one of them, or a folder of CLIBD's ``extracted_features_of_{split}.hdf5``. Where
        there are queries for test and for validation, those for test are scored.

    Returns
    -------
    EvaluatedSets
        What was saved; embeddings are float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there are no keys or no queries, or what a split needs is missing or does not fit.
    """
    with _opened(path) as saved:
        if _KEYS not in saved:
            held = ", ".join(sorted(saved)) or "none"
            raise ValueError(f"{path} holds no embeddings of {_KEYS}; its splits are: {held}.")
        stage: Literal["test", "val"] = (
            "test" if {"seen_test", "unseen_test"} & set(saved) else "val"
        )
        splits = {role: name for role, name in _splits(stage).items() if name in saved}
        if not {"seen", "unseen"} & set(splits):
            raise ValueError(
                f"{path} holds no queries: there is no split seen_test, unseen_test, seen_val or "
                "unseen_val."
            )
        sets = {role: _read(saved[name]) for role, name in splits.items()}
        embeddings = {role: values for role, (values, _) in sets.items()}
        specimens = {role: described for role, (_, described) in sets.items()}
        return EvaluatedSets(embeddings, specimens, stage, _seen_key(saved, embeddings["keys"]))


def _splits(stage: str) -> dict[str, str]:
    """Return CLIBD's name of the split that has each role."""
    splits = {"keys": _KEYS} | {role: f"{role}_{stage}" for role in ("seen", "unseen")}
    if stage == "test":
        splits |= {f"tuning_{role}": f"{role}_val" for role in ("seen", "unseen")}
    return splits


def _seen_key(saved: Mapping[str, Split], keys: Embeddings) -> torch.Tensor | None:
    """Say which keys are of seen species: by the file, or by the species of CLIBD's seen keys."""
    if _IS_SEEN in saved[_KEYS].columns:
        is_seen = torch.from_numpy(saved[_KEYS].columns[_IS_SEEN][:].astype(bool))
        if is_seen.shape != (len(keys),):
            raise ValueError(
                f"{saved[_KEYS].place}: {_IS_SEEN} has shape {tuple(is_seen.shape)}, but there are "
                f"{len(keys)} keys."
            )
        return is_seen
    if _SEEN_KEYS in saved:
        column = f"{RANKS[-1]}_list"
        if column not in saved[_SEEN_KEYS].columns:
            raise ValueError(f"{saved[_SEEN_KEYS].place} lacks {column}.")
        species = encode_taxa(_texts(saved[_SEEN_KEYS].columns[column]))
        return torch.isin(keys.labels[:, -1], torch.from_numpy(species[species != UNKNOWN]))
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, Split]]:
    """Open each split, as a group of one file or as a file of a folder."""
    with ExitStack() as stack:
        one = _single_file(path)
        if one is None:
            files = {
                split: stack.enter_context(open_file(found))
                for split, found in _files_of_splits(path).items()
            }
            yield {split: Split(f"{file.filename}, /", file) for split, file in files.items()}
            return
        file = stack.enter_context(open_file(one))
        if is_published(file):
            yield published_splits(file)
            return
        groups = {name: item for name, item in file.items() if isinstance(item, h5py.Group)}
        yield {name: Split(f"{one}, /{name}", group) for name, group in groups.items()}


def _single_file(path: Path) -> Path | None:
    """Return the file that holds every split; None if there is a file of each."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}. Name a run's output folder, a file of embeddings, or a folder of "
            "CLIBD's extracted features."
        )
    if not path.is_dir():
        return path
    candidates = [path / name for name in (FILE_NAME, *PUBLISHED)]
    return next((file for file in candidates if file.is_file()), None)


def _files_of_splits(folder: Path) -> dict[str, Path]:
    prefix, suffix = _CLIBD_FILE.split("{}")
    files = {
        found.name.removeprefix(prefix).removesuffix(suffix): found
        for found in sorted(folder.glob(_CLIBD_FILE.format("*")))
    }
    if not files:
        raise FileNotFoundError(
            f"{folder} holds neither {FILE_NAME} nor files named {_CLIBD_FILE.format('<split>')} "
            f"or {' or '.join(PUBLISHED)}."
        )
    return files


def _write(group: h5py.Group, embeddings: Embeddings, specimens: Specimens) -> None:
    for name, features in embeddings.modalities.items():
        dataset = group.create_dataset(_DATASETS[name], features.shape, np.float32)
        for rows in blocks(len(features), _ROWS_AT_ONCE):  # so that nothing is there twice
            dataset[rows] = features[rows].float().cpu().numpy()
    for rank in RANKS:
        group[f"{rank}_list"] = _as_bytes(specimens.table[rank].fillna(NOT_CLASSIFIED.decode()))
    for column, name in _IDS.items():
        group[name] = _as_bytes(specimens.table[column].fillna(""))


def _read(split: Split) -> tuple[Embeddings, Specimens]:
    columns, place = split.columns, split.place
    missing = [f"{rank}_list" for rank in RANKS if f"{rank}_list" not in columns]
    present = {name: dataset for name, dataset in _DATASETS.items() if dataset in columns}
    if missing or not present:
        needed = missing or [f"one of {', '.join(_DATASETS.values())}"]
        raise ValueError(
            f"{place} lacks {', '.join(needed)}. It has: {', '.join(sorted(columns))}."
        )
    wanted = {column: name for column, name in _IDS.items() if name in columns}
    wanted |= {rank: f"{rank}_list" for rank in RANKS}
    texts = {column: _texts(columns[name]) for column, name in wanted.items()}
    if len({len(column) for column in texts.values()}) > 1:
        lengths = ", ".join(f"{wanted[name]} {len(column)}" for name, column in texts.items())
        raise ValueError(f"{place}: columns differ in length: {lengths}. Write the file again.")
    labels = np.stack([encode_taxa(texts[rank]) for rank in RANKS], axis=1)
    try:
        features = {name: _features(columns[dataset]) for name, dataset in present.items()}
        embeddings = Embeddings(labels=torch.from_numpy(labels), **features)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return embeddings, Specimens(as_table(texts, len(labels)))


def _features(dataset: h5py.Dataset) -> torch.Tensor:
    if dataset.dtype.kind != "f":
        raise ValueError(f"{dataset.name} holds {dataset.dtype}, but must hold numbers.")
    return torch.from_numpy(dataset.astype(np.float32)[:])  # CLIBD writes float64


def _texts(dataset: h5py.Dataset) -> Any:
    return dataset[:].astype(bytes)


def _as_bytes(texts: Any) -> Any:
    encoded = np.array([text.encode() for text in texts], dtype=bytes)
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")
