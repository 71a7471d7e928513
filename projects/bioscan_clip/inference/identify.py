"""Names for specimens, by a reference library: with a confidence, or none.

The nearest known specimens vote for a name at each rank, and what the library was calibrated on
turns their votes into probabilities; see :mod:`projects.bioscan_clip.scoring.calibration`. A
barcode's nearest are found by embedding and by shared k-mers, and then compared by alignment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import edlib
import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.segments import Feature, normalized
from projects.bioscan_clip.scoring.calibration import (
    ABSENT_SHARE,
    Answers,
    Calibration,
    choose_absent,
    fit,
    precision_step,
)
from projects.bioscan_clip.scoring.voting import VOTERS, best_temperature, vote

Kind = Literal["photo", "barcode", "both"]
KINDS: Final[tuple[Kind, ...]] = ("photo", "barcode", "both")

_WEIGHTS: Final = (0.1, 0.25, 0.5)  # of the photo, where there is a barcode too
_TEMPERATURES: Final = (0.03, 0.003)  # of similarity and identity, where nothing is calibrated
_EQUALLY_NEAR: Final = 0.002  # in similarity; about one base of a barcode
_ALIGNED_AT_ONCE: Final = 4096

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Queries:
    """Specimens to be named.

    Attributes
    ----------
    rgb, dna : numpy.ndarray or None
        float32, shape ``(Q, D)``, embeddings; rows of zeros or NaN where a specimen has none.
    barcodes : sequence of str or None
        Barcodes as the model read them, in the frame of the region, for alignment.
    """

    rgb: npt.NDArray[np.float32] | None = None
    dna: npt.NDArray[np.float32] | None = None
    barcodes: Sequence[str] | None = None

    def __len__(self) -> int:
        """Return the number of specimens."""
        return len(next(part for part in (self.rgb, self.dna) if part is not None))

    def kinds(self) -> npt.NDArray[np.str_]:
        """Say what each specimen comes with: one of `KINDS`, or an empty string."""
        photo, barcode = (
            np.zeros(len(self), dtype=bool) if part is None else np.nan_to_num(part).any(axis=1)
            for part in (self.rgb, self.dna)
        )
        return np.select([photo & barcode, barcode, photo], ["both", "barcode", "photo"], "")

    def vectors(self, rows: Ints, kind: Kind, photo_weight: float) -> npt.NDArray[np.float32]:
        """Return what the library is searched by."""
        photos = None if self.rgb is None else self.rgb[rows]
        barcodes = None if self.dna is None else self.dna[rows]
        if kind == "both":
            assert photos is not None
            assert barcodes is not None
            parts = [photo_weight * normalized(photos), (1 - photo_weight) * normalized(barcodes)]
            return np.concatenate(parts, axis=1)
        vectors = photos if kind == "photo" else barcodes
        assert vectors is not None
        return vectors


@dataclass(frozen=True)
class _Near:
    """The nearest specimens of Q queries: rows, similarities and identities (NaN), all (Q, K)."""

    rows: Ints
    similarities: Floats
    identities: Floats


def identify(
    library: ReferenceLibrary, queries: Queries, precision: float = 0.95, top_k: int = 5
) -> pd.DataFrame:
    """Name specimens.

    Parameters
    ----------
    library : ReferenceLibrary
        Known specimens.
    queries : Queries
        Embeddings by the library's model.
    precision : float
        Share of accepted names that should be right, at each rank.
    top_k : int
        Nearest specimens to list.

    Returns
    -------
    pandas.DataFrame
        A row per specimen: ``query`` (one of `KINDS`); ``answer``, in words; ``accepted_rank`` and
        ``accepted_name``, the deepest that passes, missing if none does; for each rank its name,
        ``..._confidence`` and ``..._accepted``; ``in_library``, the probability that the library
        has its species; ``conflict``, the species among equally near specimens if they differ; and
        ``nearest_ids``, ``nearest_names``, ``nearest_similarities`` and ``nearest_identities``
        (lists, nearest first; identities in percent, empty without barcodes). Confidences are
        missing where the library is not calibrated for this kind of query.

    Raises
    ------
    ValueError
        If there is no threshold for such a precision, or no way to compare the queries.
    """
    precision_step(precision)
    kinds = queries.kinds()
    parts = [pd.DataFrame({"query": ""}, index=np.flatnonzero(kinds == ""))]
    for kind in KINDS:
        rows = np.flatnonzero(kinds == kind)
        for start in range(0, len(rows), _ALIGNED_AT_ONCE):
            some = rows[start : start + _ALIGNED_AT_ONCE]
            parts.append(_identify(library, queries, some, kind, precision, top_k))
    return pd.concat([part for part in parts if len(part)]).sort_index()


def calibrate(
    library: ReferenceLibrary,
    queries: Queries,
    labels: Ints,
    own: Sequence[str] = (),
    absent_share: float = ABSENT_SHARE,
) -> dict[str, dict[str, Any]]:
    """Find out on specimens of known names how far names can be trusted.

    Their own entries in the library are left aside. Some species are hidden from the library
    meanwhile, so that it is known what a missing species looks like.

    Parameters
    ----------
    library : ReferenceLibrary
        Known specimens.
    queries : Queries
        Specimens with embeddings; those with both photo and barcode count for each kind of query.
    labels : numpy.ndarray
        int64, shape ``(Q, 4)``, codes of their names, -1 if unknown.
    own : sequence of str
        Their sample ids, by which the library may have them.
    absent_share : float
        Share of queries whose species the library lacks, or is made to lack.

    Returns
    -------
    dict
        By kind of query, plain values for :meth:`ReferenceLibrary.set_calibration`. Kinds for which
        there are too few specimens are left out.

    Raises
    ------
    ValueError
        If there are too few for any.
    """
    if own:
        ids = library.table(np.arange(library.kept.size))["sampleid"]
        library = library.where(~ids.isin([name for name in own if name]).to_numpy())
    species = labels[:, -1]
    held = library.labels[library.kept, -1]
    hidden = choose_absent(species, np.isin(species, held), absent_share)
    library = library.where(~np.isin(library.labels[:, -1], hidden))
    in_library = np.isin(species, library.labels[library.kept, -1])
    calibrated: dict[str, dict[str, Any]] = {}
    reasons = []
    for kind in KINDS:
        rows = np.flatnonzero(np.isin(queries.kinds(), [kind, "both"]))
        if not len(rows):
            continue
        try:
            calibrated[kind] = _calibrate(
                library, queries, rows, kind, labels[rows], in_library[rows]
            )
        except ValueError as error:
            reasons.append(f"{kind}: {error}")
    if not calibrated:
        raise ValueError("Nothing can be calibrated. " + " ".join(reasons))
    return calibrated


def percent_identity(query: str, known: str) -> float:
    """Return how much of two barcodes is equal, where both have bases.

    Parameters
    ----------
    query, known : str
        In the frame of one region, so that base i of one faces base i of the other; an N in either
        is neither equal nor different.

    Returns
    -------
    float
        100 (1 - edits / known bases in common), by an alignment with the fewest edits; NaN if they
        have no base in common.
    """
    first = max(len(part) - len(part.lstrip("N")) for part in (query, known))
    last = min(len(query.rstrip("N")), len(known.rstrip("N")))
    ours, theirs = query[first:last], known[first:last]
    bases = len(ours) - max(ours.count("N"), theirs.count("N"))
    if bases <= 0:
        return float("nan")
    aligned = edlib.align(ours, theirs, task="distance", additionalEqualities=_ANY)
    return 100 * max(0.0, 1 - float(aligned["editDistance"]) / bases)


_ANY: Final = [("N", base) for base in "ACGT"]


def _identify(
    library: ReferenceLibrary,
    queries: Queries,
    rows: Ints,
    kind: Kind,
    precision: float,
    top_k: int,
) -> pd.DataFrame:
    settings = library.about["calibration"].get(kind)
    near = _nearest(library, queries, rows, kind, settings["photo_weight"] if settings else 0.25)
    labels = np.where(near.rows[:, :, None] < 0, UNKNOWN, library.labels[near.rows])
    by_identity = bool(settings["by_identity"] if settings else (near.identities >= 0).any())
    scores = _scores(near, by_identity)
    if settings:
        calibration = Calibration(**settings["calibration"])
        answers = calibration.answer(scores, labels)
        accepted = calibration.accepts(answers, precision)
    else:
        votes = vote(scores, labels, _TEMPERATURES[by_identity])
        unknown = np.full(votes.labels.shape, np.nan)
        answers = Answers(votes.labels, unknown, unknown[:, 0])
        accepted = np.zeros(unknown.shape, dtype=bool)
    distinct, places = np.unique(near.rows, return_inverse=True)
    table = library.table(np.maximum(distinct, 0))
    places = places.reshape(near.rows.shape)
    names = _names(table, labels, places, answers.labels)
    result = pd.DataFrame({"query": kind}, index=rows)
    result["answer"] = [
        _in_words(*row, settings is not None) for row in zip(names, accepted, strict=True)
    ]
    deepest = accepted.sum(axis=1) - 1
    result["accepted_rank"] = [RANKS[rank] if rank >= 0 else pd.NA for rank in deepest]
    result["accepted_name"] = [
        name[rank] if rank >= 0 else pd.NA for name, rank in zip(names, deepest, strict=True)
    ]
    for rank, name in enumerate(RANKS):
        result[name] = names[:, rank]
        result[f"{name}_confidence"] = answers.confidence[:, rank]
        result[f"{name}_accepted"] = accepted[:, rank]
    result["in_library"] = answers.in_keys
    return pd.concat([result, _describe_nearest(near, table, places, scores, top_k, rows)], axis=1)


def _nearest(
    library: ReferenceLibrary, queries: Queries, rows: Ints, kind: Kind, photo_weight: float
) -> _Near:
    """Find the specimens that vote."""
    feature, photo_or_barcode = _feature(library, kind)
    vectors = queries.vectors(rows, photo_or_barcode, photo_weight)
    if photo_or_barcode == "photo" or queries.barcodes is None:
        found = library.search(np.nan_to_num(vectors), feature, VOTERS)
        unknown = np.full(found.rows.shape, np.nan)
        return _Near(found.rows, found.similarities.astype(np.float64), unknown)
    ours = [queries.barcodes[row] for row in rows]
    others = library.search_barcodes(ours, VOTERS // 2)
    found = library.search(np.nan_to_num(vectors), feature, VOTERS - others.shape[1])
    others[(others[:, :, None] == found.rows[:, None]).any(axis=2)] = -1
    similarities = library.similarity(np.nan_to_num(vectors), feature, others)
    others[np.isneginf(similarities)] = -1
    every = np.concatenate([found.rows, others], axis=1)
    similarities = np.concatenate([found.similarities, similarities], axis=1)
    return _Near(every, similarities.astype(np.float64), _identities(library, ours, every))


def _feature(library: ReferenceLibrary, kind: Kind) -> tuple[Feature, Kind]:
    """Return what to search by, and what part of a query to use: like by like if possible."""
    if kind == "both" and "both" in library.features:
        return "both", "both"
    if kind != "photo" and "dna" in library.features:
        return "dna", "barcode"
    if kind != "barcode" and "rgb" in library.features:
        return "rgb", "photo"
    return library.features[0], "barcode" if kind == "both" else kind


def _identities(library: ReferenceLibrary, barcodes: Sequence[str], rows: Ints) -> Floats:
    """Align each barcode with those of its nearest specimens, equal pairs once: percent (Q, K)."""
    distinct, places = np.unique(np.maximum(rows, 0), return_inverse=True)
    known = library.barcodes(distinct)
    done: dict[tuple[str, str], float] = {}
    identities = np.full(rows.shape, np.nan)
    for query, (barcode, others) in enumerate(
        zip(barcodes, places.reshape(rows.shape), strict=True)
    ):
        for column, other in enumerate(others):
            pair = barcode, known[other]
            if rows[query, column] < 0 or not all(pair):
                continue
            if pair not in done:
                done[pair] = percent_identity(*pair)
            identities[query, column] = done[pair]
    return identities


def _scores(near: _Near, by_identity: bool) -> Floats:
    """Return what votes are weighted by; with identities, those without one come last."""
    if not by_identity:
        return near.similarities
    identities = near.identities / 100
    lowest = np.nanmin(identities, axis=1, initial=1.0, keepdims=True) - 0.1
    scores: Floats = np.where(np.isnan(identities), lowest, identities)
    return np.where(near.rows < 0, -np.inf, scores)


def _calibrate(
    library: ReferenceLibrary,
    queries: Queries,
    rows: Ints,
    kind: Kind,
    truth: Ints,
    in_library: Mask,
) -> dict[str, Any]:
    """Choose how to compare, and fit the calibration to it."""
    choices = []
    for weight in _WEIGHTS if kind == "both" and "both" in library.features else (0.0,):
        near = _nearest(library, queries, rows, kind, weight)
        labels = np.where(near.rows[:, :, None] < 0, UNKNOWN, library.labels[near.rows])
        with_identity = not np.isnan(near.identities).all(axis=1).any()
        for by_identity in (False, True) if with_identity else (False,):
            scores = _scores(near, by_identity)
            loss = best_temperature(scores, labels, truth)[1]
            choices.append((loss, weight, by_identity, scores, labels))
    _, weight, by_identity, scores, labels = min(choices, key=lambda choice: choice[0])
    calibration = fit(scores, labels, truth, in_library)
    return {
        "photo_weight": weight,
        "by_identity": by_identity,
        "calibration": calibration.as_dict(),
    }


def _names(
    table: pd.DataFrame, labels: Ints, places: Ints, winners: Ints
) -> npt.NDArray[np.object_]:
    """Look the winners' names up, in the rows of those who voted for them: (Q, 4)."""
    names = np.full(winners.shape, pd.NA, dtype=object)
    for rank, column in enumerate(RANKS):
        voter = (labels[:, :, rank] == winners[:, [rank]]).argmax(axis=1)
        texts = table[column].to_numpy(dtype=object)[places[np.arange(len(places)), voter]]
        names[:, rank] = texts
    names[winners == UNKNOWN] = pd.NA
    return names


def _in_words(names: Sequence[Any], accepted: Mask, calibrated: bool) -> str:
    """Say an answer as a person would: "Diptera > Cecidomyiidae; genus uncertain"."""
    if not calibrated:
        known = [name for name in names if not pd.isna(name)]
        return f"nearest: {known[-1] if known else 'without a name'}"
    path = " > ".join(name for name, passes in zip(names, accepted, strict=True) if passes)
    if accepted.all():
        return path
    uncertain = f"{RANKS[int(accepted.sum())]} uncertain"
    return f"{path}; {uncertain}" if path else uncertain


def _describe_nearest(
    near: _Near,
    table: pd.DataFrame,
    places: Ints,
    scores: Floats,
    top_k: int,
    index: Ints,
) -> pd.DataFrame:
    """List the nearest specimens, and the species among those that are equally near."""
    by_identity = np.where(np.isnan(near.identities), -1, near.identities)
    nearest_first = np.lexsort((-near.similarities, -by_identity), axis=1)
    ids = table["sampleid"].fillna(table["processid"]).fillna("").to_numpy(dtype=object)
    order, family, genus, _ = (table[rank] for rank in RANKS)
    deepest = table["species"].fillna(genus).fillna(family).fillna(order).fillna("")
    known = deepest.to_numpy(dtype=object)
    species = table["species"].to_numpy(dtype=object)
    rows = []
    for query, columns in enumerate(nearest_first):
        columns = columns[near.rows[query, columns] >= 0]
        first = columns[:top_k]
        best = scores[query, columns].max(initial=-np.inf)
        equal = columns[scores[query, columns] >= best - _EQUALLY_NEAR]
        held = {name for name in species[places[query, equal]] if not pd.isna(name)}
        identities = near.identities[query, first]
        rows.append(
            {
                "conflict": ", ".join(sorted(held)) if len(held) > 1 else "",
                "nearest_ids": ids[places[query, first]].tolist(),
                "nearest_names": known[places[query, first]].tolist(),
                "nearest_similarities": near.similarities[query, first].round(4).tolist(),
                "nearest_identities": []
                if np.isnan(identities).all()
                else identities.round(2).tolist(),
            }
        )
    return pd.DataFrame(rows, index=index)
