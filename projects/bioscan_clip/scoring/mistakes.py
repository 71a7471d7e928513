"""How wrong a wrong answer is: the lowest rank that prediction and truth still share."""

from collections.abc import Iterator, Mapping
from typing import Final

import pandas as pd
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.accuracy import COLUMNS
from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.neighbours import Match
from projects.bioscan_clip.scoring.search import Neighbours

SHARED: Final = (*reversed(RANKS), "none")
"""What can be shared, from the lowest rank up; positions are distances."""


def distances(predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how many ranks one goes up from the species to what two specimens share.

    Parameters
    ----------
    predicted, labels : torch.Tensor
        int64, shape ``(Q, 4)``, codes of order, family, genus and species, -1 if unknown.

    Returns
    -------
    torch.Tensor
        int64, shape ``(Q,)``: 0 where they share the species, 1 the genus, 2 the family, 3 the
        order and 4 nothing. Unknown labels are never shared.
    """
    shared = ((predicted == labels) & (labels != UNKNOWN)).flip(1)
    nothing = torch.ones_like(shared[:, :1])
    return torch.cat([shared, nothing], dim=1).int().argmax(dim=1)


def mistake_table(
    keys: Embeddings,
    queries: Mapping[str, Embeddings],
    neighbours: Mapping[Match, Neighbours],
) -> pd.DataFrame:
    """Say how far nearest keys are from the truth, for every pair of features and split.

    Parameters
    ----------
    keys, queries, neighbours
        As for :func:`~projects.bioscan_clip.scoring.accuracy.accuracy_table`.

    Returns
    -------
    pandas.DataFrame
        Rows of average ``mistake`` and k 1: at levels ``species``, ``genus``, ``family``,
        ``order`` and ``none`` the share of queries whose lowest shared rank this is, at level
        ``mean`` the mean distance, 0 to 4. Only queries of known species count. No intervals.
    """
    return pd.DataFrame(_rows(keys, queries, neighbours), columns=list(COLUMNS))


def _rows(
    keys: Embeddings,
    queries: Mapping[str, Embeddings],
    neighbours: Mapping[Match, Neighbours],
) -> Iterator[tuple[str | int | float, ...]]:
    missing = float("nan")
    for match, near in neighbours.items():
        labels = queries[match.split].labels
        named = labels[:, -1] != UNKNOWN
        if not named.any():
            continue
        found = distances(keys.labels[near.keys[named, 0]], labels[named])
        counts = found.bincount(minlength=len(SHARED))
        n = len(found)
        levels = dict(zip(SHARED, (counts / n).tolist(), strict=True))
        for level, value in {**levels, "mean": found.double().mean().item()}.items():
            yield (*match, "mistake", 1, level, value, missing, missing, n)
