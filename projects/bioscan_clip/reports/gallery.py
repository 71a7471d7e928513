"""Photos of queries beside those of their nearest keys."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.plots import NOTHING, pair_name
from projects.bioscan_clip.reports.predictions import predictions
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import PAIRS, Match
from projects.bioscan_clip.scoring.specimens import Specimens

_PER_SPLIT: Final = 6
_KEYS: Final = 3
_AS_THEY_ARE: Final = 20_000
_PIXELS: Final = 160


@dataclass(frozen=True)
class Picture:
    """A photo and what is known of its specimen.

    ``photo`` is a data URI, empty if it cannot be read; ``shared`` the lowest rank in common with
    the query (``none``: no rank), empty for the query itself.
    """

    photo: str
    name: str
    rank: str
    specimen: str
    shared: str = ""
    similarity: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A query, and its nearest keys by what was compared."""

    split: str
    query: Picture
    keys: dict[str, list[Picture]]


def gallery(evaluation: Evaluation) -> Iterator[Entry]:
    """Choose queries, as many right as wrong ones where there are, and show their nearest keys.

    Parameters
    ----------
    evaluation : Evaluation
        What was found, among sets with tables.

    Yields
    ------
    Entry
        Up to six for each split; none where there are no photos. A query counts as right if its
        nearest key, by the first pair that papers report, has its name at the finest rank at which
        any query has one.
    """
    found = {(match.query, match.key) for match in evaluation.neighbours}
    pairs = [pair for pair in PAIRS if pair in found]
    pairs = [pair for pair in pairs if pair[0] == "rgb"] or pairs
    keys = evaluation.keys
    for split, queries in evaluation.queries.items():
        if keys.read_photo is None or queries.read_photo is None or len(queries) == 0:
            continue
        near = {pair: predictions(evaluation, Match(*pair, split)) for pair in pairs}
        for row in choose_queries(near[pairs[0]]) if pairs else ():
            strips = {
                pair_name(pair): [
                    _picture(keys, key, queries.names.iloc[row], similarity)
                    for key, similarity in zip(
                        table["key_rows"][row][:_KEYS], table["similarities"][row], strict=False
                    )
                ]
                for pair, table in near.items()
            }
            yield Entry(split, _picture(queries, row), strips)


def choose_queries(nearest: pd.DataFrame, count: int = _PER_SPLIT, seed: int = 0) -> list[int]:
    """Choose queries of one split at random, half of them right and half wrong where possible.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.predictions.predictions`.
    count : int, default=6
        How many to choose.
    seed : int, default=0
        Seed of the choice.

    Returns
    -------
    list of int
        Rows of the queries, the right ones first.
    """
    named = [rank for rank in RANKS if nearest[f"true_{rank}"].notna().any()]
    if not named:
        return []
    known = nearest[nearest[f"true_{named[-1]}"].notna()]
    shuffled = known.iloc[np.random.default_rng(seed).permutation(len(known))]
    is_right = shuffled[f"true_{named[-1]}"].eq(shuffled[f"predicted_{named[-1]}"]).fillna(False)
    right, wrong = (shuffled.index[is_right == wanted].tolist() for wanted in (True, False))
    few = min(len(right), max(count - count // 2, count - len(wrong)))
    return [*right[:few], *wrong[: count - few]]


def as_data_uri(jpeg: bytes) -> str:
    """Return a photo for a page: as it is if small, else 160 pixels on its longer side.

    Empty if it is no picture, or one of too many pixels.
    """
    try:
        image = Image.open(BytesIO(jpeg))
        if len(jpeg) > _AS_THEY_ARE:
            image = image.convert("RGB")
            image.thumbnail((_PIXELS, _PIXELS))
            file = BytesIO()
            image.save(file, "JPEG", quality=85)
            jpeg = file.getvalue()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _picture(
    source: Specimens, row: int, query: pd.Series | None = None, similarity: float = 0.0
) -> Picture:
    assert source.read_photo is not None
    names = source.names.iloc[row]
    known = [rank for rank in RANKS if pd.notna(names[rank])]
    shared = ""
    if query is not None:
        shared = [NOTHING, *(rank for rank in known if names[rank] == query.fillna("")[rank])][-1]
    return Picture(
        photo=as_data_uri(source.read_photo(row)),
        name=names[known[-1]] if known else "no name",
        rank=known[-1] if known else "",
        specimen=str(names["sampleid"]),
        shared=shared,
        similarity=similarity,
    )
