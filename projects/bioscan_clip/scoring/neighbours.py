"""The nearest keys of every query by cosine similarity, for every pair of query and key features.

Features are photo, barcode and name; the mean and the concatenation of a specimen's photo and
barcode embeddings; and, of keys, all of its modalities at once. The mean and the concatenation are
weighted sums, and weighted concatenations, of the unit embeddings. So every similarity follows from
the products of the modalities, and no product is computed twice. Memory does not grow with the
keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch.nn import functional as F

from projects.bioscan_clip.scoring.specimens import Specimens

AVERAGED: Final = "averaged"
CONCATENATED: Final = "concatenated"
ALL: Final = "all"
"""Keys among which a specimen stands once for each of its modalities."""

PAIRS: Final = (("rgb", "dna"), ("rgb", "rgb"), ("dna", "dna"), (AVERAGED, AVERAGED))
"""The pairs of features that are shown first, of queries and of keys: those that papers report, and
photo and barcode together."""

KEYS_AT_ONCE: Final = 8192
QUERIES_AT_ONCE: Final = 1024
_BOTH: Final = ("rgb", "dna")


class Match(NamedTuple):
    """What is compared: a feature of a split's queries with a feature of the keys."""

    query: str
    key: str
    split: str


@dataclass(frozen=True)
class Neighbours:
    """The nearest keys of each query, nearest first.

    Attributes
    ----------
    similarities : torch.Tensor
        float32, shape ``(Q, K)``, cosine similarities in descending order.
    keys : torch.Tensor
        int64, shape ``(Q, K)``, rows of the keys.
    """

    similarities: torch.Tensor
    keys: torch.Tensor


def find_neighbours(
    keys: Specimens, queries: Mapping[str, Specimens], k: int
) -> dict[Match, Neighbours]:
    """Find the nearest keys by all pairs of features, exactly.

    Similarities are computed for a block of keys and a block of queries at a time; memory grows
    with the results alone.

    Parameters
    ----------
    keys : Specimens
        Key specimens, embeddings of any floating point.
    queries : mapping of str to Specimens
        Query specimens by split; a split may be empty.
    k : int
        Neighbours per query; at most as many as there are keys.

    Returns
    -------
    dict of Match to Neighbours
        For query features ``rgb``, ``dna``, ``text``, ``averaged`` and ``concatenated``, and key
        features the same and ``all``, as far as dimensions agree.
    """
    k = min(k, len(keys))
    nearest: dict[Match, Nearest] = {}
    for key_rows in blocks(len(keys), KEYS_AT_ONCE):
        key_features = _Features.of(keys, key_rows)
        for split, specimens in queries.items():
            for rows in blocks(len(specimens), QUERIES_AT_ONCE):
                found = _similarities(_Features.of(specimens, rows), key_features)
                for query, key, values in found:
                    match = Match(query, key, split)
                    if match not in nearest:
                        nearest[match] = Nearest(len(specimens), k, values.device)
                    nearest[match].add(values, rows, key_rows.start)
    return with_all_keys(keys, {match: one.found() for match, one in nearest.items()})


def nearest_keys(
    queries: torch.Tensor, keys: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the `k` nearest keys of each query by one feature, exactly.

    Parameters
    ----------
    queries : torch.Tensor
        Floating point, shape ``(Q, D)``; need not be normalised.
    keys : torch.Tensor
        Floating point, shape ``(N, D)``; need not be normalised. May be of half precision, or lie
        in a file mapped to memory: only a block of rows is converted at a time.
    k : int
        Neighbours per query; at most ``N`` are returned.

    Returns
    -------
    similarities : torch.Tensor
        float32, shape ``(Q, min(k, N))``, cosine similarities in descending order.
    indices : torch.Tensor
        int64, shape ``(Q, min(k, N))``, rows of `keys`.
    """
    nearest = Nearest(len(queries), min(k, len(keys)), queries.device)
    for key_rows in blocks(len(keys), KEYS_AT_ONCE):
        unit_keys = F.normalize(keys[key_rows].float(), dim=1)
        for rows in blocks(len(queries), QUERIES_AT_ONCE):
            unit_queries = F.normalize(queries[rows].float(), dim=1)
            nearest.add(unit_queries @ unit_keys.T, rows, key_rows.start)
    found = nearest.found()
    return found.similarities, found.keys


def with_all_keys(
    keys: Specimens, neighbours: Mapping[Match, Neighbours]
) -> dict[Match, Neighbours]:
    """Add the key feature ``all``, where every modality of the keys could be searched.

    Parameters
    ----------
    keys : Specimens
        Key specimens.
    neighbours : mapping of Match to Neighbours
        What was found by the other features.

    Returns
    -------
    dict of Match to Neighbours
        All of it, sorted by name.
    """
    merged = dict(neighbours)
    for query, split in {(match.query, match.split): None for match in neighbours}:
        matches = [Match(query, name, split) for name in keys.modalities]
        if all(match in neighbours for match in matches):
            merged[Match(query, ALL, split)] = _merge([neighbours[match] for match in matches])
    return dict(sorted(merged.items()))


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cover `length` rows, `size` at a time."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


class Nearest:
    """The `k` nearest keys so far of some queries, while keys come block by block."""

    def __init__(self, queries: int, k: int, device: torch.device) -> None:
        self._similarities = torch.full((queries, k), -torch.inf, device=device)
        self._keys = torch.zeros((queries, k), dtype=torch.int64, device=device)

    def add(self, similarities: torch.Tensor, rows: slice, first_key: int) -> None:
        """Take in similarities (len(rows), B) of some queries to B keys from `first_key` on."""
        k = self._keys.shape[1]
        block = similarities.topk(min(k, similarities.shape[1]), dim=1)
        values = torch.cat([self._similarities[rows], block.values], dim=1)
        keys = torch.cat([self._keys[rows], block.indices + first_key], dim=1)
        best = values.topk(k, dim=1)
        self._similarities[rows] = best.values
        self._keys[rows] = keys.gather(1, best.indices)

    def found(self) -> Neighbours:
        """Return the nearest keys of all that came."""
        return Neighbours(self._similarities, self._keys)


def _merge(parts: Sequence[Neighbours]) -> Neighbours:
    values = torch.cat([part.similarities for part in parts], dim=1)
    rows = torch.cat([part.keys for part in parts], dim=1)
    best = values.topk(parts[0].keys.shape[1], dim=1)
    return Neighbours(best.values, rows.gather(1, best.indices))


@dataclass(frozen=True)
class _Features:
    """A block of B specimens, ready to be compared.

    Attributes
    ----------
    units : mapping of str to torch.Tensor
        Unit embeddings by modality, float32, shape ``(B, D)``.
    averaged, concatenated : mapping of str to torch.Tensor
        What the unit embeddings of photo and barcode count in their mean and in their
        concatenation, float32, shape ``(B,)``; empty where there is none.
    """

    units: Mapping[str, torch.Tensor]
    averaged: Mapping[str, torch.Tensor]
    concatenated: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, specimens: Specimens, rows: slice) -> "_Features":
        values = {name: block[rows].float() for name, block in specimens.modalities.items()}
        units = {name: F.normalize(block, dim=1) for name, block in values.items()}
        if not set(_BOTH) <= set(values):
            return cls(units, {}, {})
        norms = {name: values[name].norm(dim=1) for name in _BOTH}
        length = torch.hypot(*norms.values())
        concatenated = {name: norms[name] / length.clamp(min=1e-12) for name in _BOTH}
        if values["rgb"].shape != values["dna"].shape:
            return cls(units, {}, concatenated)
        length = (values["rgb"] + values["dna"]).norm(dim=1)
        averaged = {name: norms[name] / length.clamp(min=1e-12) for name in _BOTH}
        return cls(units, averaged, concatenated)


def _similarities(queries: _Features, keys: _Features) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield query feature, key feature and cosine similarities (Q, N), where dimensions agree."""
    products = {
        (query, key): query_units @ key_units.T
        for query, query_units in queries.units.items()
        for key, key_units in keys.units.items()
        if query_units.shape[1] == key_units.shape[1]
    }
    for query in queries.units:
        by_key = {key: products[query, key] for key in keys.units if (query, key) in products}
        yield from _against_keys(query, by_key, keys)
    if queries.averaged:
        by_key = {
            key: _weighted_sum(
                [products[name, key] for name in _BOTH],
                [queries.averaged[name][:, None] for name in _BOTH],
            )
            for key in keys.units
            if ("rgb", key) in products
        }
        yield from _against_keys(AVERAGED, by_key, keys)
    if queries.concatenated and keys.concatenated and all((m, m) in products for m in _BOTH):
        weights = [queries.concatenated[m][:, None] * keys.concatenated[m] for m in _BOTH]
        summed = _weighted_sum([products[m, m] for m in _BOTH], weights)
        yield CONCATENATED, CONCATENATED, summed


def _against_keys(
    query: str, by_key: Mapping[str, torch.Tensor], keys: _Features
) -> Iterator[tuple[str, str, torch.Tensor]]:
    for key, values in by_key.items():
        yield query, key, values
    if keys.averaged and set(_BOTH) <= set(by_key):
        weights = [keys.averaged[name] for name in _BOTH]
        yield query, AVERAGED, _weighted_sum([by_key[name] for name in _BOTH], weights)


def _weighted_sum(terms: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    first, second = terms
    return (first * weights[0]).addcmul_(second, weights[1])
