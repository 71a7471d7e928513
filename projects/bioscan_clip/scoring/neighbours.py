"""The nearest keys of every query, for every pair of query and key features."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch

from projects.bioscan_clip.scoring.embeddings import Embeddings
from projects.bioscan_clip.scoring.features import Features, similarities
from projects.bioscan_clip.scoring.search import (
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
        :class:`~projects.bioscan_clip.scoring.features.Features`.
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
    return with_all_keys(keys, {match: one.found() for match, one in nearest.items()})


def with_all_keys(
    keys: Embeddings, neighbours: Mapping[Match, Neighbours]
) -> dict[Match, Neighbours]:
    """Add the key feature ``all``, where every modality of the keys could be searched.

    Parameters
    ----------
    keys : Embeddings
        Key specimens.
    neighbours : mapping of Match to Neighbours
        What was found by the other features.

    Returns
    -------
    dict of Match to Neighbours
        All of it, sorted by name.
    """
    names = list(keys.modalities)
    merged = dict(neighbours)
    for query, split in {(match.query, match.split): None for match in neighbours}:
        matches = [Match(query, name, split) for name in names]
        if all(match in neighbours for match in matches):
            merged[Match(query, ALL, split)] = _merge([neighbours[match] for match in matches])
    return dict(sorted(merged.items()))


def _merge(parts: Sequence[Neighbours]) -> Neighbours:
    values = torch.cat([part.similarities for part in parts], dim=1)
    rows = torch.cat([part.keys for part in parts], dim=1)
    best = values.topk(parts[0].keys.shape[1], dim=1)
    return Neighbours(best.values, rows.gather(1, best.indices))
