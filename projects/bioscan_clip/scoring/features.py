"""What queries and keys are compared by: photo, barcode, name, and photo and barcode together.

The mean and the concatenation of a specimen's photo and barcode embeddings are weighted sums, and
weighted concatenations, of its unit embeddings. So every similarity follows from the products of
the modalities, and no product is computed twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional as F

from projects.bioscan_clip.scoring.embeddings import Embeddings

AVERAGED: Final = "averaged"
CONCATENATED: Final = "concatenated"
_BOTH: Final = ("rgb", "dna")


@dataclass(frozen=True)
class Features:
    """Some specimens, ready to be compared.

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
    def of(cls, embeddings: Embeddings, rows: slice) -> "Features":
        """Prepare a block of rows."""
        values = {name: block[rows].float() for name, block in embeddings.modalities.items()}
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


def similarities(queries: Features, keys: Features) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Compare every feature of some queries with every one of some keys of the same dimension.

    Parameters
    ----------
    queries, keys : Features
        Q query and N key specimens.

    Yields
    ------
    tuple of str, str and torch.Tensor
        Query feature, key feature and their cosine similarities, float32, shape ``(Q, N)``.
    """
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
    query: str, by_key: Mapping[str, torch.Tensor], keys: Features
) -> Iterator[tuple[str, str, torch.Tensor]]:
    for key, values in by_key.items():
        yield query, key, values
    if keys.averaged and set(_BOTH) <= set(by_key):
        weights = [keys.averaged[name] for name in _BOTH]
        yield query, AVERAGED, _weighted_sum([by_key[name] for name in _BOTH], weights)


def _weighted_sum(terms: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    first, second = terms
    return (first * weights[0]).addcmul_(second, weights[1])
