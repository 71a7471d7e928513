"""The most similar specimens of a library: exactly, or by an index of FAISS with exact re-ranking.

The index has inverted lists of vectors around centres, which leave out removed specimens; as many
lists are visited as a recall of `RECALL` needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, Final, Literal

import faiss
import numpy as np
import torch

from projects.bioscan_clip.inference.segments import (
    Feature,
    Floats,
    Ints,
    Mask,
    Segments,
    unique_name,
)
from projects.bioscan_clip.scoring.neighbours import Nearest, blocks

RECALL: Final = 0.98
"""Share of the 10 nearest that an index should find."""

_ROWS_AT_ONCE: Final = 8192
_QUERIES_AT_ONCE: Final = 1024
_INDEXED_AT_ONCE: Final = 1 << 16
_CANDIDATES: Final = 4  # times k, from the index, which are then compared exactly
_CHECKED: Final = 1000


@dataclass(frozen=True)
class Found:
    """The nearest specimens of each query, nearest first.

    Attributes
    ----------
    similarities : numpy.ndarray
        float32, shape ``(Q, K)``, cosine similarities, K no more than there are specimens; -inf
        where an index found fewer.
    rows : numpy.ndarray
        int64, shape ``(Q, K)``, rows of the library; -1 where an index found fewer.
    """

    similarities: Floats
    rows: Ints


def search_exactly(segments: Segments, unit: Floats, feature: Feature, rows: Ints, k: int) -> Found:
    """Compare all queries with all of some rows, in memory that does not grow with them.

    Parameters
    ----------
    segments : Segments
        The library's specimens.
    unit : numpy.ndarray
        float32, shape ``(Q, D)``, queries of unit length.
    feature : {"rgb", "dna", "both"}
        What they are compared with.
    rows : numpy.ndarray
        int64, ascending, at least `k`.
    k : int
        Specimens per query.
    """
    nearest = Nearest(len(unit), k, torch.device("cpu"))
    queries = torch.from_numpy(unit)
    for part in blocks(len(rows), _ROWS_AT_ONCE):
        keys = torch.from_numpy(segments.read(rows[part], feature))
        for some in blocks(len(queries), _QUERIES_AT_ONCE):
            nearest.add(queries[some] @ keys.T, some, part.start)
    found = nearest.found()
    return Found(found.similarities.numpy(), rows[found.keys.numpy()])


def search_index(
    folder: Path,
    segments: Segments,
    kept: Mask,
    indexes: Mapping[str, Mapping[str, Any]],
    unit: Floats,
    feature: Feature,
    k: int,
) -> Found:
    """Find candidates by the indexes, and compare these exactly.

    Parameters
    ----------
    folder : pathlib.Path
        Where the indexes lie.
    segments, unit, feature, k
        As for :func:`search_exactly`.
    kept : numpy.ndarray
        bool, shape ``(N,)``, which rows may be found.
    indexes : mapping of str to mapping
        What :func:`build_index` returned, by feature.
    """
    names: tuple[Literal["rgb", "dna"], ...]
    names = ("rgb", "dna") if feature == "both" else (feature,)
    allowed = kept & segments.having(feature)
    wanted = min(_CANDIDATES * k, int(kept.sum()))
    parts = zip(np.split(unit, len(names), axis=1), names, strict=True)
    candidates = np.concatenate(
        [_candidates(folder, indexes[name], allowed, part, wanted) for part, name in parts], axis=1
    )
    similarities = np.full(candidates.shape, -np.inf, dtype=np.float32)
    for query, rows in enumerate(candidates):
        distinct, places = np.unique(rows, return_index=True)
        known = distinct >= 0
        keys = segments.read(distinct[known], feature)
        similarities[query, places[known]] = keys @ unit[query]
    return nearest_of((Found(similarities, candidates),), k)


def build_index(
    folder: Path, segments: Segments, kept: Mask, feature: Literal["rgb", "dna"]
) -> dict[str, Any]:
    """Sort vectors into lists around centres, and visit as many as recall needs.

    Returns
    -------
    dict
        Name of the file, rows in it, lists that are visited, and the recall on its own vectors.
    """
    count = len(segments)
    lists = max(1, min(4 * isqrt(count), count // 39))  # FAISS wants 39 vectors a centre
    some = segments.read(np.arange(0, count, max(1, count // (64 * lists))), feature)
    index: Any = faiss.index_factory(
        some.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT
    )
    index.train(some)
    for part in blocks(count, _INDEXED_AT_ONCE):
        index.add(segments.read(np.arange(part.start, part.stop), feature))
    name = f"index-{feature}-{unique_name()}.faiss"
    faiss.write_index(index, str(folder / name))
    about: dict[str, Any] = {"file": name, "rows": count, "visited": max(1, lists // 64)}
    allowed = kept & segments.having(feature)
    present = np.flatnonzero(allowed)
    queries = segments.read(present[:: -(-len(present) // _CHECKED)], feature)
    exact = search_exactly(segments, queries, feature, present, min(10, len(present))).rows
    while True:
        found = _candidates(folder, about, allowed, queries, _CANDIDATES * exact.shape[1])
        about["recall"] = float((exact[:, :, None] == found[:, None]).any(axis=2).mean())
        if about["recall"] >= RECALL or about["visited"] >= lists:
            return about
        about["visited"] = min(2 * about["visited"], lists)


def _candidates(
    folder: Path, about: Mapping[str, Any], allowed: Mask, unit: Floats, count: int
) -> Ints:
    index: Any = faiss.read_index(str(folder / about["file"]), faiss.IO_FLAG_MMAP)
    bits = np.packbits(allowed[: about["rows"]], bitorder="little")
    chosen = faiss.IDSelectorBitmap(about["rows"], faiss.swig_ptr(bits))  # type: ignore[call-arg]
    how = faiss.SearchParametersIVF(nprobe=about["visited"], sel=chosen)  # type: ignore[call-arg]
    rows: Ints = index.search(unit, count, params=how)[1]
    return rows


def nearest_of(parts: Sequence[Found], k: int) -> Found:
    """Return the nearest of several findings."""
    similarities = np.concatenate([part.similarities for part in parts], axis=1)
    rows = np.concatenate([part.rows for part in parts], axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(similarities, order, axis=1)
    return Found(best, np.where(np.isfinite(best), np.take_along_axis(rows, order, axis=1), -1))
