"""Whether splits hold the specimens, species and names that they should, and no others."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Final

import h5py
import numpy as np
import pandas as pd

from projects.bioscan_clip.data_tools.checks.finding import Finding, IntArray, blocks, text_at
from projects.bioscan_clip.data_tools.splits import PARTS_1M, PARTS_5M, SINGLETON
from projects.bioscan_clip.datasets.schema import (
    EVALUATION_SPLITS,
    IDENTIFIERS,
    RANKS,
    SEEN_KEYS,
    TEXT_IDS,
    TEXT_MASK,
    TRAINING_SPLIT,
)
from projects.bioscan_clip.datasets.taxonomy import UNKNOWN, encode_column

Columns = Mapping[str, Mapping[str, h5py.Dataset]]
"""By split, its columns."""


@dataclass
class Split:
    """The columns of a split that can be used, and what they hold, as far as there is any.

    Attributes
    ----------
    name : str
        Its name.
    columns : dict of str to h5py.Dataset
        Its columns.
    rows : int
        Its number of specimens.
    ids : numpy.ndarray
        Codes of sampleids, int64, shape ``(N,)``.
    labels : numpy.ndarray
        Codes of the four ranks, int64, shape ``(N, 4)``.
    tokens : pandas.DataFrame
        Which names and tokens meet: one row for each distinct pair, with `name` and `tokens`
        (hashes), `row` (the first that has the pair), `complete` (whether the tokens are neither
        cut nor hold an unknown word, so that no other name should have them).
    """

    name: str
    columns: dict[str, h5py.Dataset]
    rows: int
    ids: IntArray | None = None
    labels: IntArray | None = None
    tokens: pd.DataFrame | None = None

    def has(self, *columns: str) -> bool:
        """Return whether there are such columns, with rows."""
        return self.rows > 0 and all(name in self.columns for name in columns)


# Splits that share no kind of specimens are disjoint, a split whose kinds are among another's lies
# in it, and one whose kinds others cover holds nothing else.
_KINDS: Final = {
    layout: {name: frozenset(kinds) for name, kinds in parts.items()}
    for layout, parts in {"BIOSCAN-1M": PARTS_1M, "BIOSCAN-5M": PARTS_5M}.items()
}
# Species with one specimen may be part of `no_split` or not: other splits need not hold them.
_FREE = SINGLETON

_EXAMPLES = 3
_GENUS, _SPECIES = RANKS.index("genus"), RANKS.index("species")
_PLURALS = {"family": "families", "genus": "genera"}
_UNKNOWN_WORD = 100  # in every BERT vocabulary
_NAMES_LOOKED_AT = 20
_CORRECT: Final = "correct the labels"
_SPLIT_AGAIN: Final = "make the splits again"
_TOKENIZE_AGAIN: Final = "tokenize the names again, as the file's builder does"

_NO_ID = Finding("splits", "error", "the sampleid is empty", "give every specimen a sampleid")
_TWICE = Finding(
    "splits",
    "error",
    "the sampleid has occurred before in the same split",
    "drop the repeated specimens, which would be counted twice",
)
_NO_GENUS = Finding(
    "labels",
    "warning",
    "a species is given, but its genus is unknown",
    "fill in the genus, usually the first word of the species",
)
_LEAKED = Finding(
    "splits",
    "error",
    f"the species should be unseen, but {TRAINING_SPLIT} has it",
    f"{_SPLIT_AGAIN}: accuracy on unseen species would come out too high",
)


def read_codes(split: Split) -> Iterator[Finding]:
    """Read codes and tokens of a split, and check that its specimens are different ones."""
    if split.has(*RANKS):
        codes = [encode_column(split.columns[rank]) for rank in RANKS]
        split.labels = np.stack(codes, axis=1)
        wrong = (codes[_SPECIES] != UNKNOWN) & (codes[_GENUS] == UNKNOWN)
        yield from _NO_GENUS.at(split.name, np.flatnonzero(wrong))
    if split.has(IDENTIFIERS[0]):
        split.ids = encode_column(split.columns[IDENTIFIERS[0]])
        known = np.flatnonzero(split.ids != UNKNOWN)
        first = np.unique(split.ids[known], return_index=True)[1]
        yield from _NO_ID.at(split.name, np.flatnonzero(split.ids == UNKNOWN))
        yield from _TWICE.at(split.name, np.delete(known, first))
    if split.has(TEXT_IDS, TEXT_MASK) and split.labels is not None:
        split.tokens = _names_and_tokens(split.columns[TEXT_IDS], split.labels)


def compare_splits(layout: str, splits: Sequence[Split]) -> Iterator[Finding]:
    """Check what only shows when splits are compared.

    Parameters
    ----------
    layout : str
        ``BIOSCAN-1M`` or ``BIOSCAN-5M``.
    splits : sequence of Split
        After :func:`read_codes`.
    """
    columns = {split.name: split.columns for split in splits}
    labels = {split.name: split.labels for split in splits if split.labels is not None}
    yield from _check_lineages(columns, labels)
    yield from _check_species(columns, labels)
    yield from _check_membership(layout, {s.name: s.ids for s in splits if s.ids is not None})
    pairs = [split.tokens.assign(split=split.name) for split in splits if split.tokens is not None]
    if pairs:
        met = pd.concat(pairs).drop_duplicates(["name", "tokens"])
        yield from _check_tokens(columns, met)


def _check_membership(layout: str, ids: Mapping[str, IntArray]) -> Iterator[Finding]:
    """Check which splits share specimens, against the layout of a published file."""
    kinds = {name: parts for name, parts in _KINDS[layout].items() if name in ids}
    members = {name: np.unique(ids[name][ids[name] != UNKNOWN]) for name in kinds}

    def wrong(split: str, specimens: IntArray, message: str) -> list[Finding]:
        rows = np.flatnonzero(np.isin(ids[split], specimens)) if len(specimens) else specimens
        return Finding("splits", "error", message, _SPLIT_AGAIN).at(split, rows)

    covered = set()
    for whole in kinds:
        inside = [name for name in kinds if kinds[name] < kinds[whole]]
        for part in inside:
            if part != _FREE:
                lost = np.setdiff1d(members[part], members[whole], assume_unique=True)
                yield from wrong(
                    part, lost, f"the specimen is not in {whole}, which should hold it"
                )
        if frozenset().union(*(kinds[name] for name in inside if name != _FREE)) == kinds[whole]:
            covered.add(whole)
            surplus = np.setdiff1d(members[whole], np.concatenate([members[n] for n in inside]))
            listed = ", ".join(inside)
            message = f"the specimen is in none of the parts of {whole}, which are {listed}"
            yield from wrong(whole, surplus, message)
    # Of a split that others cover, every overlap would be reported twice.
    for one, other in combinations([name for name in kinds if name not in covered], 2):
        if not kinds[one] & kinds[other]:
            shared = np.intersect1d(members[one], members[other], assume_unique=True)
            yield from wrong(one, shared, f"the specimen is also in {other}")


def _check_species(columns: Columns, labels: Mapping[str, IntArray]) -> Iterator[Finding]:
    """Check that unseen species are unseen in training, and seen ones seen."""
    species = {split: codes[:, _SPECIES] for split, codes in labels.items()}
    seen = {splits["seen"] for splits in EVALUATION_SPLITS.values()}
    for split, codes in species.items():
        for reference in [each for each in (TRAINING_SPLIT, SEEN_KEYS) if each in species]:
            met = np.isin(codes, species[reference])
            if split in seen:
                rows = np.flatnonzero((codes != UNKNOWN) & ~met)
                finding = _never_met(reference)
            elif "unseen" in split and reference == TRAINING_SPLIT:
                rows, finding = np.flatnonzero((codes != UNKNOWN) & met), _LEAKED
            else:
                continue
            each = rows[np.unique(codes[rows], return_index=True)[1]]
            names = text_at(columns[split][RANKS[-1]], np.sort(each)[: _EXAMPLES + 1])
            yield from finding.at(split, rows, names)


def _never_met(reference: str) -> Finding:
    return Finding(
        "splits",
        "warning",
        f"the species should be seen, but {reference} does not have it",
        f"{_SPLIT_AGAIN}, or expect these queries to be wrong at species level",
    )


def _check_lineages(columns: Columns, labels: Mapping[str, IntArray]) -> Iterator[Finding]:
    """Check over all splits that each taxon has one parent.

    A genus name may rightly stand in two families, as zoology and botany, and more rarely zoology
    itself, used some names twice. A species' name holds its genus, so that two are a mistake.
    """
    for child in range(len(RANKS) - 1, 0, -1):
        met = [_parents(split, codes, child) for split, codes in labels.items()]
        if not met:
            return
        pairs = pd.concat(met).drop_duplicates(["child", "parent"])
        doubtful = pairs[pairs.duplicated("child", keep=False)]
        if doubtful.empty:
            continue
        groups = [group for _, group in doubtful.groupby("child", sort=False)]
        rank, above, number = RANKS[child], RANKS[child - 1], len(groups)
        is_error = rank == "species"
        taxa = f"1 {rank} stands" if number == 1 else f"{number:,} {_PLURALS.get(rank, rank)} stand"
        yield Finding(
            "labels",
            "error" if is_error else "warning",
            f"{taxa} in more than one {above}",
            _CORRECT if is_error else f"{_CORRECT}, unless the name is rightly used twice",
            count=number,
            names=tuple(_describe(columns, group, child) for group in groups[:_EXAMPLES]),
        )


def _parents(split: str, codes: IntArray, child: int) -> pd.DataFrame:
    """Return the distinct pairs of taxa of two neighbouring ranks, and the first row of each."""
    rows = np.flatnonzero((codes[:, child] != UNKNOWN) & (codes[:, child - 1] != UNKNOWN))
    pairs = pd.DataFrame(
        {"child": codes[rows, child], "parent": codes[rows, child - 1], "row": rows, "split": split}
    )
    return pairs.drop_duplicates(["child", "parent"])


def _describe(columns: Columns, group: pd.DataFrame, child: int) -> str:
    """Return a sentence part such as ``Aedes albopictus: Aedes in all_keys row 3, Culex in …``."""
    parts = []
    for split, row in zip(group["split"], group["row"], strict=True):
        parent = text_at(columns[split][RANKS[child - 1]], np.array([row]))[0]
        parts.append(f"{parent} in {split} row {row}")
    name = text_at(columns[split][RANKS[child]], np.array([row]))[0]
    return f"{name}: {', '.join(parts)}"


def _names_and_tokens(ids: h5py.Dataset, labels: IntArray) -> pd.DataFrame:
    """Return which names and tokens meet in a split; see :class:`Split`."""
    pairs = []
    for start, block in blocks({TEXT_IDS: ids}):
        tokens = block[TEXT_IDS]
        pair = pd.DataFrame(
            {
                "name": _hashes(labels[start : start + len(tokens)]),
                "tokens": _hashes(tokens),
                "row": np.arange(start, start + len(tokens)),
                "complete": (tokens[:, -1] == 0) & (tokens != _UNKNOWN_WORD).all(axis=1),
            }
        )
        pairs.append(pair.drop_duplicates(["name", "tokens"]))
    return pd.concat(pairs).drop_duplicates(["name", "tokens"])


def _hashes(rows: IntArray) -> pd.Series:
    return pd.util.hash_pandas_object(pd.DataFrame(rows), index=False)


def _check_tokens(columns: Columns, met: pd.DataFrame) -> Iterator[Finding]:
    """Check that a name has the same tokens everywhere, and different names different ones."""
    changing = met[met.duplicated("name", keep=False)].groupby("name", sort=False)
    if len(changing):
        examples = [
            " and ".join(f"{place.split} row {place.row}" for place in group[:2].itertuples())
            for _, group in islice(changing, _EXAMPLES)
        ]
        many = "1 name has" if len(changing) == 1 else f"{len(changing):,} names have"
        yield Finding(
            "tokens", "error", f"{many} different tokens in different rows", _TOKENIZE_AGAIN,
            count=len(changing), names=tuple(examples),
        )  # fmt: skip

    shared = met[met["complete"] & met.duplicated("tokens", keep=False)]
    alike = []
    for _, group in shared.groupby("tokens", sort=False):
        places = group[["split", "row"]].to_numpy()[:_NAMES_LOOKED_AT]
        names = {_name(columns[split], row) for split, row in places}
        if len({_as_tokenizer_sees(name) for name in names}) > 1:
            alike.append(" = ".join(sorted(names)[:2]))
    if alike:
        message = f"different names have the same tokens, in {len(alike):,} cases"
        yield Finding(
            "tokens", "warning", message, _TOKENIZE_AGAIN, count=len(alike),
            names=tuple(alike[:_EXAMPLES]),
        )  # fmt: skip


def _name(columns: Mapping[str, h5py.Dataset], row: int) -> str:
    return " ".join(text_at(columns[rank], np.array([row]))[0] for rank in RANKS)


def _as_tokenizer_sees(name: str) -> str:
    """Return a name without what BERT's uncased tokenizer drops: case, accents and spaces."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in letters if not unicodedata.combining(c) and not c.isspace())
