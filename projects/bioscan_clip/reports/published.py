"""Accuracies that others published, from `published.yaml` beside this file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd
from omegaconf import OmegaConf

from projects.bioscan_clip.datasets.schema import RANKS

LAYOUT: Final = pd.MultiIndex.from_product(
    [RANKS, ("micro", "macro"), ("seen", "unseen")], names=["level", "average", "split"]
)
"""What the published table holds: one number for each rank, average and split."""


@dataclass(frozen=True)
class Source:
    """One publication's figures.

    Attributes
    ----------
    name : str
        Short, for a column or row of a table.
    title, url : str
        Who published them, and where.
    splits : mapping of str to str
        Split that was scored, by role (``seen``, ``unseen``).
    seeds : sequence of int or None
        Seeds that the figures are means over; None if not known.
    percent : pandas.Series
        Top-1 accuracy in percent, float64, indexed as :data:`LAYOUT`.
    """

    name: str
    title: str
    url: str
    splits: Mapping[str, str]
    seeds: Sequence[int] | None
    percent: pd.Series


@dataclass(frozen=True)
class Published:
    """What was published of one pair of features on one data set.

    Attributes
    ----------
    data : str
        Name of the data set.
    path_variable : str
        Environment variable that names its file.
    query, key : str
        Features of queries and keys.
    key_specimens : int
        Number of key specimens in that data set.
    sources : sequence of Source
        The publications, the paper first.
    """

    data: str
    path_variable: str
    query: str
    key: str
    key_specimens: int
    sources: Sequence[Source]


def load_published() -> Published:
    """Read the published figures."""
    stored = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("published.yaml")))
    values = cast(dict[str, Any], stored)
    sources = [Source(**each | {"percent": _series(each["percent"])}) for each in values["sources"]]
    return Published(**values | {"sources": sources})


def _series(percent: Mapping[str, Mapping[str, Mapping[str, float]]]) -> pd.Series:
    return pd.Series(
        [percent[level][average][split] for level, average, split in LAYOUT], LAYOUT, dtype=float
    )
