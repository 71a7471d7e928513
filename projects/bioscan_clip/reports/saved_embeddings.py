"""Embeddings as a file, and back; also as CLIBD's tools write them.

``embeddings.hdf5`` has a group for each set of specimens, named after its split, whose attribute
``role`` says what the specimens do in the evaluation; the file's attribute ``stage`` is ``val`` or
``test``. A group holds, by CLIBD's names, ``encoded_image_feature``, ``encoded_dna_feature`` and
``encoded_language_feature`` (N, D), ``order_list``, ``family_list``, ``genus_list`` and
``species_list`` (N,), and ids as ``file_name``, ``processid`` and ``sampleid`` (N,). ``is_seen``
(N,) says which keys are of seen species.

CLIBD writes the same datasets into one file a split, ``extracted_features_of_{split}.hdf5``, with
names of splits such as ``seen_test``. Features that CLIBD publishes come otherwise: see
:mod:`~projects.bioscan_clip.reports.clibd_features`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, get_args

import h5py
import numpy as np
import torch

from projects.bioscan_clip.datasets.hdf5 import open_file, own_member
from projects.bioscan_clip.datasets.schema import (
    EVALUATION_SPLITS,
    NOT_CLASSIFIED,
    RANKS,
    SEEN_KEYS,
    Role,
    Stage,
)
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_taxa
from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.reports.clibd_features import (
    FEATURES,
    PUBLISHED,
    Split,
    as_bytes,
    is_published,
    published_splits,
)
from projects.bioscan_clip.scoring.neighbours import blocks
from projects.bioscan_clip.scoring.specimens import Specimens, table_of

FILE_NAME: Final = "embeddings.hdf5"
_CLIBD_FILE: Final = "extracted_features_of_{}.hdf5"
_IDS: Final = {"image_file": "file_name", "processid": "processid", "sampleid": "sampleid"}
_IS_SEEN: Final = "is_seen"
_TOGETHER: Final = " + "
_ROWS_AT_ONCE: Final = 1 << 14


def save_embeddings(sets: Mapping[Role, Specimens], stage: Stage, folder: Path) -> Path:
    """Write ``embeddings.hdf5``.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        What to write; with tables.
    stage : {"val", "test"}
        What was evaluated.
    folder : pathlib.Path
        Where to; made if missing.

    Returns
    -------
    pathlib.Path
        The file.
    """

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs["stage"] = stage
            for role, specimens in sets.items():
                name = _TOGETHER.join(specimens.splits) or EVALUATION_SPLITS[stage][role]
                group = file.create_group(name if name not in file else f"{name} as {role}")
                group.attrs["role"] = role
                _write(group, specimens)

    return write_whole(folder / FILE_NAME, write)


def load_embeddings(path: Path) -> tuple[dict[Role, Specimens], Stage]:
    """Read embeddings of keys and queries.

    Parameters
    ----------
    path : pathlib.Path
        ``embeddings.hdf5``, CLIBD's ``extracted_feature_from_{test|val}_split.hdf5``, a folder that
        holds one of them, or a folder of CLIBD's ``extracted_features_of_{split}.hdf5``. Where
        CLIBD's files hold queries for test and for validation, those for test are scored.

    Returns
    -------
    sets : dict of Role to Specimens
        What was saved; embeddings are float32.
    stage : {"val", "test"}
        What it is an evaluation of.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there are no keys or no queries, or what a split needs is missing or does not fit.
    """
    with _opened(path) as saved:
        stage, roles = _roles(saved)
        if "keys" not in roles:
            held = ", ".join(sorted(saved)) or "none"
            raise ValueError(f"{path} holds no embeddings of keys (all_keys); its splits: {held}.")
        if not {"seen", "unseen"} & set(roles):
            raise ValueError(
                f"{path} holds no queries: there is no split seen_test, unseen_test, seen_val or "
                "unseen_val."
            )
        sets = {}
        for role, (name, splits) in roles.items():
            sets[role] = _read(saved[name])
            sets[role].splits = splits
        if sets["keys"].is_seen is None and SEEN_KEYS in saved:
            species = encode_taxa(_texts(saved[SEEN_KEYS], f"{RANKS[-1]}_list"))
            known = torch.from_numpy(species[species != UNKNOWN])
            sets["keys"].is_seen = torch.isin(sets["keys"].labels[:, -1], known)
        return sets, stage


def _roles(saved: Mapping[str, Split]) -> tuple[Stage, dict[Role, tuple[str, tuple[str, ...]]]]:
    """Return the stage, and by role the name of what holds it and of the splits it is from."""
    by_role = {each.role: name for name, each in saved.items()}
    described: dict[Role, str] = {role: by_role[role] for role in get_args(Role) if role in by_role}
    if described:
        of_val = any(each.stage == "val" for each in saved.values())
        return "val" if of_val else "test", {
            role: (name, tuple(name.removesuffix(f" as {role}").split(_TOGETHER)))
            for role, name in described.items()
        }
    stage: Stage = "test" if {"seen_test", "unseen_test"} & set(saved) else "val"
    # CLIBD calls the split `val_seen` of the data file `seen_val`.
    names = {
        role: split if role == "keys" else "_".join(reversed(split.split("_")))
        for role, split in EVALUATION_SPLITS[stage].items()
    }
    return stage, {
        role: (name, (EVALUATION_SPLITS[stage][role],))
        for role, name in names.items()
        if name in saved
    }


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
        members = {name: own_member(file, name) for name in file}
        groups = {name: item for name, item in members.items() if isinstance(item, h5py.Group)}
        yield {
            name: Split(f"{one}, /{name}", group, group.attrs.get("role"), file.attrs.get("stage"))
            for name, group in groups.items()
        }


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


def _write(group: h5py.Group, specimens: Specimens) -> None:
    for name, features in specimens.modalities.items():
        dataset = group.create_dataset(FEATURES[name], features.shape, np.float32)
        for rows in blocks(len(features), _ROWS_AT_ONCE):  # so that nothing is there twice
            dataset[rows] = features[rows].float().cpu().numpy()
    for rank in RANKS:
        group[f"{rank}_list"] = as_bytes(specimens.names[rank].fillna(NOT_CLASSIFIED.decode()))
    for column, name in _IDS.items():
        group[name] = as_bytes(specimens.names[column].fillna(""))
    if specimens.is_seen is not None:
        group[_IS_SEEN] = specimens.is_seen.cpu().numpy()


def _read(split: Split) -> Specimens:
    columns, place = split.columns, split.place
    missing = [f"{rank}_list" for rank in RANKS if f"{rank}_list" not in columns]
    present = {name: dataset for name, dataset in FEATURES.items() if dataset in columns}
    if missing or not present:
        needed = missing or [f"one of {', '.join(FEATURES.values())}"]
        raise ValueError(
            f"{place} lacks {', '.join(needed)}. It has: {', '.join(sorted(columns))}."
        )
    wanted = {column: name for column, name in _IDS.items() if name in columns}
    wanted |= {rank: f"{rank}_list" for rank in RANKS}
    texts = {column: _texts(split, name) for column, name in wanted.items()}
    if len({len(column) for column in texts.values()}) > 1:
        lengths = ", ".join(f"{wanted[name]} {len(column)}" for name, column in texts.items())
        raise ValueError(f"{place}: columns differ in length: {lengths}. Write the file again.")
    labels = np.stack([encode_taxa(texts[rank]) for rank in RANKS], axis=1)
    features: dict[str, Any] = {
        name: _numbers(split, dataset, 2) for name, dataset in present.items()
    }
    is_seen = _numbers(split, _IS_SEEN, 1).bool() if _IS_SEEN in columns else None
    try:
        return Specimens(
            labels=torch.from_numpy(labels),
            **features,
            table=table_of(texts, len(labels)),
            is_seen=is_seen,
        )
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _column(split: Split, name: str, kinds: str, holds: str, dimensions: int) -> Any:
    """Return a dataset of numbers or texts; anything else is an error that names it."""
    if name not in split.columns:
        raise ValueError(f"{split.place} lacks {name}.")
    columns = split.columns
    column = own_member(columns, name) if isinstance(columns, h5py.Group) else columns[name]
    if isinstance(column, h5py.Group):
        raise ValueError(f"{split.place}: {name} is a group, but must be a column of {holds}.")
    if column.dtype.kind not in kinds or column.ndim != dimensions:
        raise ValueError(
            f"{split.place}: {name} holds {column.dtype} of shape {column.shape}, but must hold "
            f"{holds} in {dimensions} dimension{'s' * (dimensions > 1)}."
        )
    return column


def _numbers(split: Split, name: str, dimensions: int) -> torch.Tensor:
    column = _column(split, name, "fb", "numbers", dimensions)
    return torch.from_numpy(column.astype(np.float32)[:])  # CLIBD writes float64


def _texts(split: Split, name: str) -> Any:
    return _column(split, name, "SO", "texts", 1)[:].astype(bytes)
