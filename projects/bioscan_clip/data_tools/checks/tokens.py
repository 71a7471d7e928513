"""Whether text tokens are well formed and go with the names, without knowing the vocabulary."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

import h5py
import numpy as np
import pandas as pd

from projects.bioscan_clip.data_tools.checks.columns import (
    Block,
    BoolArray,
    IntArray,
    blocks,
    rows_with_problems,
    text_at,
)
from projects.bioscan_clip.data_tools.checks.finding import Finding, Problem
from projects.bioscan_clip.datasets.schema import RANKS, TEXT_IDS, TEXT_MASK

_PADDING, _UNKNOWN_WORD, _START, _END = 0, 100, 101, 102  # in every BERT vocabulary
_TOKENIZE_AGAIN: Final = "tokenize the names again, as the file's builder does"
_EXAMPLES = 3
_NAMES_LOOKED_AT = 20

_BAD_MASK = Problem(
    "tokens", "error", "the attention mask is not 1 where there is a token and 0 where there is "
    "padding", _TOKENIZE_AGAIN,
)  # fmt: skip
_NO_START = Problem("tokens", "error", "the tokens do not begin with [CLS] (101)", _TOKENIZE_AGAIN)
_NO_END = Problem("tokens", "error", "the tokens have no [SEP] (102)", _TOKENIZE_AGAIN)


def check_tokens(split: str, columns: Mapping[str, h5py.Dataset]) -> list[Finding]:
    """Check that the tokens of a split have the form that BERT expects."""
    chosen = {name: columns[name] for name in (TEXT_IDS, TEXT_MASK)}
    rows = rows_with_problems(chosen, _inspect)
    return [finding for problem in rows for finding in problem.at(split, rows[problem])]


def _inspect(block: Block) -> dict[Problem, BoolArray]:
    ids, mask = block[TEXT_IDS], block[TEXT_MASK]
    return {
        _BAD_MASK: (mask != (ids != _PADDING)).any(axis=1),
        _NO_START: ids[:, 0] != _START,
        _NO_END: ~(ids == _END).any(axis=1),
    }


def names_and_tokens(ids: h5py.Dataset, labels: IntArray) -> pd.DataFrame:
    """Return which names and tokens meet in a split.

    Parameters
    ----------
    ids : h5py.Dataset
        Token ids, ``(N, 20)``.
    labels : numpy.ndarray
        Codes of the four ranks, int64, shape ``(N, 4)``.

    Returns
    -------
    pandas.DataFrame
        One row for each distinct pair: `name` and `tokens` (hashes), `row` (the first that has the
        pair), `complete` (whether the tokens are neither cut nor hold an unknown word, so that no
        other name should have them).
    """
    pairs = []
    for start, block in blocks({TEXT_IDS: ids}):
        tokens = block[TEXT_IDS]
        cut = tokens[:, -1] != _PADDING
        pair = pd.DataFrame(
            {
                "name": _hashes(labels[start : start + len(tokens)]),
                "tokens": _hashes(tokens),
                "row": np.arange(start, start + len(tokens)),
                "complete": ~(cut | (tokens == _UNKNOWN_WORD).any(axis=1)),
            }
        )
        pairs.append(pair.drop_duplicates(["name", "tokens"]))
    return pd.concat(pairs).drop_duplicates(["name", "tokens"])


def _hashes(rows: IntArray) -> pd.Series:
    return pd.util.hash_pandas_object(pd.DataFrame(rows), index=False)


def check_names_against_tokens(
    splits: Mapping[str, Mapping[str, h5py.Dataset]], pairs: Mapping[str, pd.DataFrame]
) -> Iterator[Finding]:
    """Check that a name has the same tokens everywhere, and different names different ones.

    Parameters
    ----------
    splits : mapping of str to mapping of str to h5py.Dataset
        Columns of each split.
    pairs : mapping of str to pandas.DataFrame
        What :func:`names_and_tokens` returns for each split.
    """
    if not pairs:
        return
    met = pd.concat([pair.assign(split=split) for split, pair in pairs.items()])
    met = met.drop_duplicates(["name", "tokens"])

    changing = met[met.duplicated("name", keep=False)]
    if len(changing):
        examples = [
            " and ".join(
                f"{split} row {row}" for split, row in group[["split", "row"]].to_numpy()[:2]
            )
            for _, group in changing.groupby("name", sort=False).head(2).groupby("name", sort=False)
        ]
        count = changing["name"].nunique()
        message = (
            f"{count:,} name{'s have' if count > 1 else ' has'} different tokens in different rows"
        )
        yield Finding(
            "tokens",
            "error",
            message,
            _TOKENIZE_AGAIN,
            count=count,
            names=tuple(examples[:_EXAMPLES]),
        )

    shared = met[met["complete"] & met.duplicated("tokens", keep=False)]
    alike = []
    for _, group in shared.groupby("tokens", sort=False):
        places = group[["split", "row"]].to_numpy()[:_NAMES_LOOKED_AT]
        names = {_name(splits[split], row) for split, row in places}
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
