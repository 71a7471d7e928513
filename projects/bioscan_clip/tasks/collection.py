"""Collect the embeddings of an evaluation epoch, over batches and processes, as specimens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmlearn.constants import EXAMPLE_INDEX_KEY
from mmlearn.datasets.core import Modalities
from torchmetrics.utilities.distributed import gather_all_tensors

from projects.bioscan_clip.datasets.hdf5 import open_file, own_member
from projects.bioscan_clip.datasets.schema import RANKS, SEEN_KEYS, Role
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column
from projects.bioscan_clip.scoring.specimens import COLUMNS, MODALITIES, Specimens, table_of

_DATASET_INDEX_KEY = "dataset_index"


class EmbeddingCollection:
    """Embeddings, ids and label codes of one evaluation epoch, kept in main memory."""

    def __init__(self) -> None:
        self._batches: dict[str, list[torch.Tensor]] = {}

    def add(self, batch: Mapping[str, Any], outputs: Mapping[str, torch.Tensor]) -> None:
        """Add a batch.

        Parameters
        ----------
        batch : mapping
            With ``example_index``, ``dataset_index`` (B,) and ``labels`` (B, 4).
        outputs : mapping of str to torch.Tensor
            What mmlearn's forward pass returns: ``rgb_embedding`` (B, D) and the like.
        """
        columns = {
            "dataset": batch[_DATASET_INDEX_KEY],
            "example": batch[EXAMPLE_INDEX_KEY],
            "labels": batch["labels"],
        }
        for name in MODALITIES:
            key = Modalities.get_modality(name).embedding
            if key in outputs:
                columns[name] = outputs[key].float()
        for name, values in columns.items():
            self._batches.setdefault(name, []).append(values.detach().cpu())

    def by_dataset(self, device: torch.device) -> dict[int, tuple[Specimens, torch.Tensor]]:
        """Return each dataset's specimens once, in the dataset's order.

        In distributed runs the parts of all processes are put together, and specimens that a
        distributed sampler repeated are dropped, so that every process returns what a single one
        would.

        Parameters
        ----------
        device : torch.device
            Where to return them, and where processes can exchange tensors.

        Returns
        -------
        dict of int to tuple
            By position of the dataset among those evaluated: its specimens, and their rows in the
            dataset, int64, shape ``(N,)``, in main memory.
        """
        columns = {name: torch.cat(parts) for name, parts in sorted(self._batches.items())}
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            columns = {name: _gather(values, device) for name, values in columns.items()}
        if not columns:
            return {}
        datasets, examples = columns.pop("dataset"), columns.pop("example")
        result = {}
        for dataset in datasets.unique().tolist():
            rows = (datasets == dataset).nonzero().squeeze(1)
            rows = rows[_first_of_each(examples[rows])]
            parts = {name: values[rows].to(device) for name, values in columns.items()}
            result[dataset] = Specimens.of(parts), examples[rows]
        return result


def by_role(
    datasets: Mapping[int, Any], splits: Mapping[str, Sequence[str]]
) -> dict[Role, list[int]]:
    """Give each dataset of an epoch its role.

    Parameters
    ----------
    datasets : mapping of int to object
        The epoch's datasets; each says its ``split``.
    splits : mapping of str to sequence of str
        Names of splits: any of ``keys`` are keys; the first of ``seen`` that is there holds the
        queries that are scored, and the second those that thresholds are tuned on; likewise for
        ``unseen``; any of ``novel`` are novel.

    Returns
    -------
    dict of Role to list of int
        Which datasets have a role, as far as there are any.
    """
    distinct: dict[tuple[str, str], int] = {}
    for place, dataset in datasets.items():
        # A file's split may be there twice, as queries and for tuning.
        distinct.setdefault((str(getattr(dataset, "path", place)), dataset.split), place)
    by_split: dict[str, list[int]] = {}
    for (_, split), place in distinct.items():
        by_split.setdefault(split, []).append(place)
    seen, unseen = (
        [by_split[split] for split in splits[role] if split in by_split]
        for role in ("seen", "unseen")
    )
    roles: dict[Role, list[int]] = {
        "keys": [place for place in distinct.values() if datasets[place].split in splits["keys"]],
        **dict(zip(("seen", "tuning_seen"), seen, strict=False)),
        **dict(zip(("unseen", "tuning_unseen"), unseen, strict=False)),
        "novel": [place for name in splits["novel"] for place in by_split.get(name, ())],
    }
    return {role: chosen for role, chosen in roles.items() if chosen}


def described(specimens: Specimens, dataset: Any, rows: torch.Tensor, named: bool) -> Specimens:
    """Add what a dataset knows of its specimens.

    Parameters
    ----------
    specimens : Specimens
        Embeddings and labels.
    dataset : BIOSCANInsectDataset or any other
        Where they are from; only those of a HDF5 file have ids, names and photos.
    rows : torch.Tensor
        int64, shape ``(N,)``; their positions in it.
    named : bool
        Whether to look up ids, names and photos.

    Returns
    -------
    Specimens
        With ``splits`` and, as far as known, ``table``, ``read_photo`` and ``is_seen``.
    """
    positions = rows.numpy()
    is_file = isinstance(dataset, BIOSCANInsectDataset)
    columns, is_seen = {}, None
    if is_file:
        with open_file(dataset.path) as file:
            if named:
                group = own_member(file, dataset.split)
                held = [name for name in COLUMNS if name in group]
                columns = {name: own_member(group, name)[:][positions] for name in held}
            if SEEN_KEYS in file:
                species = encode_column(own_member(own_member(file, SEEN_KEYS), RANKS[-1]))
                codes = torch.from_numpy(np.setdiff1d(species, [UNKNOWN]))
                labels = specimens.labels[:, -1]
                is_seen = torch.isin(labels, codes.to(labels.device))
    return replace(
        specimens,
        splits=(dataset.split,),
        table=table_of(columns, len(specimens)) if named else None,
        read_photo=(lambda row: dataset.read_jpeg(int(positions[row])))
        if named and is_file and dataset.has_photos
        else None,
        is_seen=is_seen,
    )


def _gather(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat(gather_all_tensors(values.to(device))).cpu()


def _first_of_each(ids: torch.Tensor) -> torch.Tensor:
    """Return the positions of the first occurrence of each id, by ascending id."""
    ordered, positions = ids.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return positions[is_first]
