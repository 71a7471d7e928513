"""Which specimens of an epoch are keys, and which are queries."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from projects.bioscan_clip.datasets.hdf5 import open_file
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column
from projects.bioscan_clip.reports.sets import EvaluatedSets
from projects.bioscan_clip.reports.specimens import Specimens, specimens_of
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.tasks.collection import Collected

Origin = tuple[Any, Collected]
"""A dataset, and what the epoch saw of it."""


def by_role(
    origins: Sequence[Origin], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Origin]]:
    """Give each dataset of an epoch its role.

    Parameters
    ----------
    origins : sequence of Origin
        The epoch's datasets.
    splits : mapping of str to sequence of str
        Names of splits by role: any of ``keys`` are keys; the first of ``seen`` that is there holds
        the queries, and the second those for tuning; likewise for ``unseen``.

    Returns
    -------
    dict of str to list of Origin
        By role, as far as there are any: see :class:`EvaluatedSets`.
    """
    distinct: dict[tuple[str, str], Origin] = {}
    for place, (dataset, seen) in enumerate(origins):
        # A file's split may be there twice, as queries and for tuning.
        identity = (str(getattr(dataset, "path", place)), dataset.split)
        distinct.setdefault(identity, (dataset, seen))
    found = list(distinct.values())
    roles = {"keys": [origin for origin in found if origin[0].split in splits["keys"]]}
    for role in ("seen", "unseen"):
        held = [[origin for origin in found if origin[0].split == split] for split in splits[role]]
        present = [origins_of_split for origins_of_split in held if origins_of_split]
        roles |= dict(zip((role, f"tuning_{role}"), present, strict=False))
    return {role: chosen for role, chosen in roles.items() if chosen}


def collect_sets(
    roles: Mapping[str, Sequence[Origin]], stage: Literal["test", "val"], named: bool
) -> EvaluatedSets:
    """Put the specimens of each role together.

    Parameters
    ----------
    roles : mapping of str to sequence of Origin
        See :func:`by_role`.
    stage : str
        ``test`` or ``val``.
    named : bool
        Whether to look up ids, names and photos.

    Returns
    -------
    EvaluatedSets
        Embeddings, and who they are of.
    """
    embeddings = {
        role: Embeddings.concatenate([collected.embeddings for _, collected in origins])
        for role, origins in roles.items()
    }
    specimens = {}
    if named:
        for role, origins in roles.items():
            parts = [specimens_of(dataset, seen.rows.numpy()) for dataset, seen in origins]
            specimens[role] = Specimens.concatenate(parts)
    keys = roles.get("keys", ())
    seen_key = _seen_key(keys, embeddings["keys"]) if keys else None
    return EvaluatedSets(embeddings, specimens, stage, seen_key)


def data_of(roles: Mapping[str, Sequence[Origin]]) -> dict[str, Any]:
    """Say where specimens are from, for ``evaluation.json``.

    Parameters
    ----------
    roles : mapping of str to sequence of Origin
        See :func:`by_role`.

    Returns
    -------
    dict
        ``file`` and ``file_size`` in bytes of the keys' file, if they are from one, and ``splits``:
        by role, the number of specimens of each split.
    """
    paths = [getattr(dataset, "path", None) for dataset, _ in roles.get("keys", ())]
    file = paths[0] if paths else None
    return {
        "file": file.name if file else None,
        "file_size": file.stat().st_size if file else None,
        "splits": {
            role: {dataset.split: len(seen.rows) for dataset, seen in origins}
            for role, origins in roles.items()
        },
    }


def _seen_key(origins: Sequence[Origin], keys: Embeddings) -> torch.Tensor | None:
    """Say which keys are of species that the file has keys of as seen."""
    species: list[npt.NDArray[np.int64]] = []
    for dataset, _ in origins:
        if not isinstance(dataset, BIOSCANInsectDataset):
            return None
        with open_file(dataset.path) as file:
            if "seen_keys" not in file:
                return None
            species.append(encode_column(file["seen_keys"]["species"]))
    codes = torch.from_numpy(np.setdiff1d(np.concatenate(species), [UNKNOWN]))
    return torch.isin(keys.labels[:, -1], codes.to(keys.labels.device))
