"""Taxonomic names as tokens of a pretrained text encoder."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from transformers import AutoTokenizer

from projects.bioscan_clip.data_tools.published import Names
from projects.bioscan_clip.datasets.schema import (
    RANKS,
    TEXT_IDS,
    TEXT_LENGTH,
    TEXT_MASK,
    TEXT_TYPE_IDS,
)

DEFAULT_TOKENIZER: Final = "prajjwal1/bert-small"
_COLUMNS: Final = {
    TEXT_IDS: "input_ids",
    TEXT_TYPE_IDS: "token_type_ids",
    TEXT_MASK: "attention_mask",
}

IntArray = npt.NDArray[np.int64]


def tokenize_taxa(
    names: Mapping[str, Names], tokenizer: str
) -> tuple[dict[str, IntArray], IntArray]:
    """Tokenize the names of specimens, each distinct one once.

    A specimen's text is its order, family, genus and species with a space between them, and
    ``not_classified`` where one is unknown.

    Parameters
    ----------
    names : mapping of str to Names
        The four ranks of N specimens.
    tokenizer : str
        A Hugging Face tokenizer, by name or folder.

    Returns
    -------
    tokens : dict of str to numpy.ndarray
        The schema's three columns of the K distinct names, int64, shape ``(K, 20)`` each.
    positions : numpy.ndarray
        int64, shape ``(N,)``: which of them is each specimen's.

    Raises
    ------
    OSError
        If the tokenizer is neither a folder, nor cached, nor to be downloaded.
    """
    combined = np.zeros(len(names[RANKS[0]].codes), dtype=np.int64)
    for rank in RANKS:  # numbers with one digit per rank
        combined = combined * len(names[rank].distinct) + names[rank].codes
    positions, distinct = pd.factorize(combined)
    examples = np.empty(len(distinct), dtype=np.int64)
    examples[positions] = np.arange(len(positions))
    columns = [names[rank].distinct[names[rank].codes[examples]].tolist() for rank in RANKS]
    texts = [b" ".join(parts).decode() for parts in zip(*columns, strict=True)]
    return _tokenize(texts, tokenizer), positions.astype(np.int64)


def _tokenize(texts: Sequence[str], name: str) -> dict[str, IntArray]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise OSError(
            f"The tokenizer {name!r} cannot be loaded: run where there is internet, so that it is "
            "downloaded and cached, or name a local folder that holds it by --text-tokenizer."
        ) from error
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=TEXT_LENGTH,
        return_token_type_ids=True,
        return_tensors="np",
    )
    return {column: encoded[key].astype(np.int64) for column, key in _COLUMNS.items()}
