"""What the nearest key says of each query, by name."""

from typing import Final

import numpy as np
import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.wording import Pair
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import Match

NOTHING: Final = "none"
"""What a prediction and the truth share if not even the order."""


def nearest_names(evaluation: Evaluation, pair: Pair) -> pd.DataFrame:
    """Put each query beside its nearest key.

    Parameters
    ----------
    evaluation : Evaluation
        What was found.
    pair : tuple of str
        Features of queries and keys.

    Returns
    -------
    pandas.DataFrame
        One row per query of every split, in their order: ``split``, ``row`` (of the query among its
        split's), ``key`` (row among the keys), ``similarity``, and for every rank ``true_{rank}``
        and ``found_{rank}``; strings, NA where unknown.
    """
    parts = []
    names = evaluation.keys.names[list(RANKS)]
    for split, queries in evaluation.queries.items():
        neighbours = evaluation.neighbours.get(Match(*pair, split))
        if neighbours is None or len(queries) == 0:
            continue
        keys = neighbours.keys[:, 0].cpu().numpy()
        part = pd.DataFrame({"split": split, "row": np.arange(len(keys)), "key": keys})
        part["similarity"] = neighbours.similarities[:, 0].float().cpu().numpy()
        found = names.iloc[keys].reset_index(drop=True)
        true = queries.names[list(RANKS)].reset_index(drop=True)
        parts.append(part.join([true.add_prefix("true_"), found.add_prefix("found_")]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def shared_rank(true: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    """Return the lowest rank at which names agree, or `NOTHING`.

    Parameters
    ----------
    true, found : pandas.DataFrame
        Names with the columns `RANKS`, row by row; NA agrees with nothing.

    Returns
    -------
    pandas.Series
        Strings, with the index of `true`.
    """
    shared = pd.Series(NOTHING, index=true.index, dtype=object)
    for rank in RANKS:
        agrees = pd.Series(true[rank].array == found[rank].array, index=true.index)
        shared[agrees.fillna(False).astype(bool)] = rank
    return shared


def names_of(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """Return the ``true_`` or ``found_`` columns of :func:`nearest_names`, named after ranks."""
    return table[[f"{prefix}_{rank}" for rank in RANKS]].set_axis(list(RANKS), axis=1)
