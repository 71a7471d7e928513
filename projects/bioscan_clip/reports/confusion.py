"""Which taxa are taken for which."""

from typing import Final

import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.nearest import names_of, shared_rank

_SHOWN: Final = 12


def confused_taxa(nearest: pd.DataFrame, rank: str, shown: int = _SHOWN) -> pd.DataFrame:
    """Count mistakes by true and predicted taxon.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.nearest.nearest_names`.
    rank : str
        One of ``RANKS``.
    shown : int, default=12
        Number of pairs to return.

    Returns
    -------
    pandas.DataFrame
        The most frequent pairs of taxa: ``split``, ``truth``, ``prediction``, ``times``, ``of``
        (queries of the true taxon) and ``shared`` (lowest rank that the two have in common, as
        most of these queries and keys say). Queries or keys without a name at the rank do not
        count.
    """
    true, found = nearest[f"true_{rank}"], nearest[f"found_{rank}"]
    known = nearest.assign(
        truth=true.astype(object),
        prediction=found.astype(object),
        shared=shared_rank(names_of(nearest, "true"), names_of(nearest, "found")),
    )[true.notna()]
    of = known.groupby(["split", "truth"]).size().rename("of")
    wrong = known[known["prediction"].notna() & (known["truth"] != known["prediction"])]
    pairs = wrong.groupby(["split", "truth", "prediction"])
    table = pairs.agg(times=("key", "size"), shared=("shared", _commonest)).reset_index()
    table = table.join(of, on=["split", "truth"])
    by_size = ["times", "of", "truth", "prediction"]
    table = table.sort_values(by_size, ascending=[False, True, True, True])
    columns = ["split", "truth", "prediction", "times", "of", "shared"]
    return table.head(shown)[columns].reset_index(drop=True)


def confusion_tables(nearest: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the most confused taxa by rank, the finest rank first; ranks without are left out."""
    tables = {rank: confused_taxa(nearest, rank) for rank in reversed(RANKS)}
    return {rank: table for rank, table in tables.items() if len(table)}


def _commonest(values: pd.Series) -> str:
    return str(values.mode().iloc[0])
