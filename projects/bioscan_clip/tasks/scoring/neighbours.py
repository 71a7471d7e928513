"""The nearest keys of every query, for every pair of query and key features."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import torch

from projects.bioscan_clip.tasks.scoring.embeddings import MODALITIES, Embeddings
from projects.bioscan_clip.tasks.scoring.features import Features, similarities
from projects.bioscan_clip.tasks.scoring.search import (
    KEYS_AT_ONCE,
    QUERIES_AT_ONCE,
    Nearest,
    Neighbours,
    blocks,
)

ALL: Final = "all"
"""Keys among which a specimen stands once for each of its modalities."""


class Match(NamedTuple):
    """What is compared: a feature of a split's queries with a feature of the keys."""

    query: str
    key: str
    split: str


def find_neighbours(
    keys: Embeddings, queries: Mapping[str, Embeddings], k: int
) -> dict[Match, Neighbours]:
    """Find the nearest keys by all pairs of features, exactly.

    Similarities are computed for a block of keys and a block of queries at a time, each product of
    two modalities once; memory grows with the results alone.

    Parameters
    ----------
    keys : Embeddings
        Key specimens, any floating point.
    queries : mapping of str to Embeddings
        Query specimens by split; a split may be empty.
    k : int
        Neighbours per query; at most as many as there are keys.

    Returns
    -------
    dict of Match to Neighbours
        For query features ``rgb``, ``dna``, ``text``, ``averaged`` and ``concatenated``, and key
        features the same and ``all``, as far as dimensions agree; see
        :class:`~projects.bioscan_clip.tasks.scoring.features.Features`.
    """
    k = min(k, len(keys))
    nearest: dict[Match, Nearest] = {}
    for key_rows in blocks(len(keys), KEYS_AT_ONCE):
        key_features = Features.of(keys, key_rows)
        for split, specimens in queries.items():
            for rows in blocks(len(specimens), QUERIES_AT_ONCE):
                found = similarities(Features.of(specimens, rows), key_features)
                for query, key, values in found:
                    match = Match(query, key, split)
                    if match not in nearest:
                        nearest[match] = Nearest(len(specimens), k, values.device)
                    nearest[match].add(values, rows, key_rows.start)
    neighbours = {match: one.found() for match, one in nearest.items()}
    return dict(sorted((neighbours | dict(_among_all(keys, neighbours))).items()))


def _among_all(
    keys: Embeddings, neighbours: Mapping[Match, Neighbours]
) -> Iterator[tuple[Match, Neighbours]]:
    """Merge the nearest keys of single modalities, where all of these can be compared."""
    names = [name for name in MODALITIES if name in keys.modalities]
    for query, split in {(match.query, match.split): None for match in neighbours}:
        parts = [neighbours.get(Match(query, name, split)) for name in names]
        present = [part for part in parts if part is not None]
        if len(present) < len(names):
            continue
        values = torch.cat([part.similarities for part in present], dim=1)
        rows = torch.cat([part.keys for part in present], dim=1)
        best = values.topk(present[0].keys.shape[1], dim=1)
        merged = Neighbours(best.values, rows.gather(1, best.indices))
        yield Match(query, ALL, split), merged
