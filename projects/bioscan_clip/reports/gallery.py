"""Photos of queries beside those of their nearest keys."""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import pandas as pd
from PIL import Image

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.nearest import nearest_names, shared_rank
from projects.bioscan_clip.reports.wording import MAIN_PAIRS, Pair, pair_name
from projects.bioscan_clip.scoring.evaluation import Evaluation
from projects.bioscan_clip.scoring.neighbours import Match
from projects.bioscan_clip.scoring.specimens import Specimens

_PER_SPLIT: Final = 6
_KEYS: Final = 3
_SEED: Final = 0
_AS_THEY_ARE = 20_000
_PIXELS = 160


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


def gallery(evaluation: Evaluation) -> list[Entry]:
    """Choose queries, as many right as wrong ones where there are, and show their nearest keys.

    Parameters
    ----------
    evaluation : Evaluation
        What was found.

    Returns
    -------
    list of Entry
        Up to six for each split; empty where there are no photos. A query counts as right if its
        nearest key, by the first pair that papers report, has its name at the finest rank at which
        any query has one.
    """
    found_pairs = {(match.query, match.key) for match in evaluation.neighbours}
    pairs = [pair for pair in MAIN_PAIRS if pair in found_pairs]
    pairs = [pair for pair in pairs if pair[0] == "rgb"] or pairs
    if not pairs or evaluation.keys.read_photo is None:
        return []
    nearest = nearest_names(evaluation, pairs[0])
    return [
        _entry(evaluation, pairs, split, row)
        for split, queries in evaluation.queries.items()
        if queries.read_photo is not None and len(nearest)
        for row in choose_queries(nearest[nearest["split"] == split])
    ]


def choose_queries(nearest: pd.DataFrame, count: int = _PER_SPLIT, seed: int = _SEED) -> list[int]:
    """Choose queries of one split at random, half of them right and half wrong where possible.

    Parameters
    ----------
    nearest : pandas.DataFrame
        See :func:`~projects.bioscan_clip.reports.nearest.nearest_names`.
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
    rank = named[-1]
    known = nearest[nearest[f"true_{rank}"].notna()]
    shuffled = known.iloc[np.random.default_rng(seed).permutation(len(known))]
    is_right = shuffled[f"true_{rank}"].eq(shuffled[f"found_{rank}"]).fillna(False).astype(bool)
    right, wrong = shuffled["row"][is_right].tolist(), shuffled["row"][~is_right].tolist()
    few = min(len(right), max(count - count // 2, count - len(wrong)))
    return [*right[:few], *wrong[: count - few]]


def as_data_uri(jpeg: bytes) -> str:
    """Return a photo for a page: as it is if small, else 160 pixels on its longer side.

    Empty if it is no picture.
    """
    if len(jpeg) > _AS_THEY_ARE:
        try:
            image = Image.open(BytesIO(jpeg)).convert("RGB")
        except OSError:
            return ""
        image.thumbnail((_PIXELS, _PIXELS))
        file = BytesIO()
        image.save(file, "JPEG", quality=85)
        jpeg = file.getvalue()
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""


def _entry(
    evaluation: Evaluation,
    pairs: list[Pair],
    split: str,
    row: int,
) -> Entry:
    query = evaluation.queries[split].names.iloc[[row]]
    keys = {}
    for pair in pairs:
        near = evaluation.neighbours[Match(*pair, split)]
        rows = near.keys[row, :_KEYS].tolist()
        table = evaluation.keys.names.iloc[rows]
        true = pd.concat([query] * len(rows))
        keys[pair_name(pair)] = [
            _picture(evaluation.keys, key, shared, similarity)
            for key, shared, similarity in zip(
                rows, shared_rank(true, table), near.similarities[row].tolist(), strict=False
            )
        ]
    return Entry(split, _picture(evaluation.queries[split], row), keys)


def _picture(source: Specimens, row: int, shared: str = "", similarity: float = 0.0) -> Picture:
    names = source.names.iloc[row]
    rank = next((rank for rank in reversed(RANKS) if pd.notna(names[rank])), "")
    return Picture(
        photo=as_data_uri(source.read_photo(row)) if source.read_photo is not None else "",
        name=str(names[rank]) if rank else "no name",
        rank=rank,
        specimen=str(names["sampleid"]),
        shared=shared,
        similarity=similarity,
    )
