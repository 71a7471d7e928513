"""Embeddings as CLIBD publishes them: features in one file, labels in others beside it.

``extracted_feature_from_{test|val}_split.hdf5`` has the groups ``key``, ``seen`` and ``unseen``,
with features (float64) of each modality that a model has, and no labels. CLIBD's evaluation script
writes, and with ``load_inference`` reads, these as ``labels_{test|val}.json``: lists of names by
rank, ``key_gt_dict`` and so on; and ids as ``processed_id_{test|val}.json``: lists ``key_id_list``
and so on, file names of photos (BIOSCAN-1M) or processids (BIOSCAN-5M). CLIBD's README links to
files of features alone; whether labels are published beside them is not known.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.datasets.hdf5 import own_member
from projects.bioscan_clip.datasets.schema import NOT_CLASSIFIED, RANKS, Role, Stage
from projects.bioscan_clip.files import write_whole
from projects.bioscan_clip.scoring.specimens import Specimens

FEATURES: Final = {
    "rgb": "encoded_image_feature",
    "dna": "encoded_dna_feature",
    "text": "encoded_language_feature",
}
"""CLIBD's name of the embeddings of each modality."""

PUBLISHED: Final = tuple(f"extracted_feature_from_{stage}_split.hdf5" for stage in ("test", "val"))
"""Names of the published files, the one to prefer first."""

_GROUPS: Final = {"key": "all_keys", "seen": "seen_{}", "unseen": "unseen_{}"}
_ROLES: Final[Mapping[str, Role]] = {"key": "keys", "seen": "seen", "unseen": "unseen"}


@dataclass(frozen=True)
class Split:
    """Columns of one split.

    Attributes
    ----------
    place : str
        Where they are, for messages.
    columns : mapping of str to h5py.Dataset or numpy.ndarray
        By CLIBD's names, such as ``encoded_image_feature`` and ``order_list``.
    role, stage : str, optional
        What the file says that specimens do, in which evaluation.
    """

    place: str
    columns: Mapping[str, Any]
    role: str | None = None
    stage: str | None = None


def save_clibd(sets: Mapping[Role, Specimens], stage: Stage, folder: Path) -> list[Path]:
    """Write embeddings of keys and queries as CLIBD's evaluation script reads them.

    Parameters
    ----------
    sets : mapping of Role to Specimens
        With tables. All of ``keys``, ``seen`` and ``unseen`` must be there, as that script wants.
    stage : {"val", "test"}
        What names of files say.
    folder : pathlib.Path
        Where to; made if missing.

    Returns
    -------
    list of pathlib.Path
        Features, labels and ids.

    Raises
    ------
    ValueError
        If a set is missing.
    """
    missing = [role for role in _ROLES.values() if role not in sets]
    if missing:
        raise ValueError(f"CLIBD's form needs keys, seen and unseen; there are no {missing[0]}.")
    groups = {group: sets[role] for group, role in _ROLES.items()}

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for group, specimens in groups.items():
                parts = {name: each.cpu().double() for name, each in specimens.modalities.items()}
                features = {FEATURES[name]: values.numpy() for name, values in parts.items()}
                if {"rgb", "dna"} <= set(parts):
                    photo, barcode = parts["rgb"].numpy(), parts["dna"].numpy()
                    features["averaged_feature"] = (photo + barcode) / 2
                    features["concatenated_feature"] = np.concatenate([photo, barcode], axis=1)
                if group == "key" and len(parts) == len(FEATURES):
                    every = [features[name] for name in FEATURES.values()]
                    features["all_key_features"] = np.concatenate(every)
                for name, values in features.items():
                    file[f"{group}/{name}"] = values

    labels, ids = {}, {}
    for group, specimens in groups.items():
        names = specimens.names[list(RANKS)].fillna(NOT_CLASSIFIED.decode())
        labels[f"{group}_gt_dict"] = names.to_dict("records")
        named = specimens.names["image_file"].fillna(specimens.names["processid"])
        ids[f"{group}_id_list"] = named.fillna(specimens.names["sampleid"]).fillna("").tolist()
    return [
        write_whole(folder / f"extracted_feature_from_{stage}_split.hdf5", write),
        write_whole(
            folder / f"labels_{stage}.json",
            lambda path: path.write_text(json.dumps(labels, indent=4), "utf-8"),
        ),
        write_whole(
            folder / f"processed_id_{stage}.json",
            lambda path: path.write_text(json.dumps(ids, indent=4), "utf-8"),
        ),
    ]


def is_published(file: h5py.File) -> bool:
    """Say whether a file is as CLIBD publishes features."""
    return isinstance(file.get("key"), h5py.Group)


def published_splits(file: h5py.File) -> dict[str, Split]:
    """Return the splits of a published file, with the labels from beside it.

    Parameters
    ----------
    file : h5py.File
        Open for as long as columns are read.

    Returns
    -------
    dict of str to Split
        By CLIBD's names: ``all_keys``, ``seen_test``, ``unseen_test`` (or ``..._val``).

    Raises
    ------
    FileNotFoundError
        If there are no labels beside it.
    ValueError
        If labels or ids are not as CLIBD writes them, or features lie in another file.
    """
    path = Path(file.filename)
    stage = "val" if "val" in path.stem else "test"
    labels, ids = (path.with_name(f"{name}_{stage}.json") for name in ("labels", "processed_id"))
    if not labels.is_file():
        raise FileNotFoundError(
            f"{path} holds features without labels, and there is no {labels}. Put the file that "
            "CLIBD's scripts/inference_and_eval.py writes with the features there."
        )
    names, identifiers = _read(labels), _read(ids) if ids.is_file() else {}
    splits = {}
    for group, split in _GROUPS.items():
        if group in file:
            features = own_member(file, group)
            columns = {name: own_member(features, name) for name in features}
            columns |= _names(labels, names, group) | _ids(ids, identifiers, group)
            splits[split.format(stage)] = Split(f"{path}, /{group}", columns)
    return splits


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object, as CLIBD writes one.")
    return content


def _names(path: Path, content: dict[str, Any], group: str) -> dict[str, Any]:
    """Return ``order_list`` and so on."""
    key = f"{group}_gt_dict"
    try:
        return {
            f"{rank}_list": as_bytes([specimen[rank] for specimen in content[key]])
            for rank in RANKS
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold, as {key}, a list with names of {', '.join(RANKS)} for each "
            f"specimen, but does not ({error!r})."
        ) from error


def _ids(path: Path, content: dict[str, Any], group: str) -> dict[str, Any]:
    """Return ``file_name`` or ``processid``, whichever the ids are; nothing if there are none."""
    ids = content.get(f"{group}_id_list", [])
    try:
        column = "file_name" if any(Path(name).suffix for name in ids[:1]) else "processid"
        return {column: as_bytes(ids)} if ids else {}
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold, as {group}_id_list, a list of ids, but does not ({error!r})."
        ) from error


def as_bytes(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Return texts in UTF-8, of one byte at least, since HDF5 has no text of none."""
    encoded = np.array([text.encode() for text in texts], dtype=bytes)
    return encoded if encoded.dtype.itemsize else encoded.astype("S1")
