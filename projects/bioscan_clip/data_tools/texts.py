"""Taxonomic names as tokens of a pretrained text encoder."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from projects.bioscan_clip.data_tools.published import Names
from projects.bioscan_clip.datasets.names import TaxonTokenizer
from projects.bioscan_clip.datasets.schema import RANKS

DEFAULT_TOKENIZER: Final = "prajjwal1/bert-small"

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
        A tokenizer on the Hugging Face Hub, or a folder; see `TaxonTokenizer`.

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
    return TaxonTokenizer.from_pretrained(tokenizer)(texts), positions.astype(np.int64)
