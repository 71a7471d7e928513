"""Taxonomic names as WordPiece tokens, from a small fixed vocabulary of syllables."""

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_LENGTH, TEXT_MASK, TEXT_TYPE_IDS

SPECIAL_TOKENS: Final = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
"""The ids that every BERT vocabulary gives them."""

_ONSETS = ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v")
_CLUSTERS = ("br", "ch", "cr", "dr", "gl", "ph", "pl", "pt", "st", "th", "tr", "x")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("l", "m", "n", "r", "s")
_STEMS = ("coleo", "hemi", "hymeno", "lepido", "odon")
_ENDINGS = (
    "ia", "idae", "ptera", "ensis", "atus", "ata", "ella", "oides", "odes", "osa", "inus", "ops",
)  # fmt: skip


def syllables() -> tuple[list[str], list[str]]:
    """Return the syllables that invented names are made of.

    Returns
    -------
    tuple of list of str
        Open syllables, such as ``me``, which start a stem, and closed ones, such as ``lan``, which
        end it.
    """
    onsets = (*_ONSETS, *_CLUSTERS)
    starts = [onset + vowel for onset in onsets for vowel in _VOWELS]
    ends = [onset + vowel + coda for onset in _ONSETS for vowel in _VOWELS for coda in _CODAS]
    return starts, ends


def build_vocabulary() -> dict[str, int]:
    """Return the vocabulary: letters, syllables and endings, at a word's start and inside it.

    Returns
    -------
    dict of str to int
        About 1,200 tokens. Ids 1 to 99 are unused, as in BERT.
    """
    starts, ends = syllables()
    bare = [vowel + coda for vowel in _VOWELS for coda in _CODAS]
    pieces = dict.fromkeys([*ascii_lowercase, *starts, *ends, *bare, *_STEMS, *_ENDINGS])
    tokens = [*pieces, *(f"##{piece}" for piece in pieces)]
    unused = {f"[unused{number}]": number for number in range(1, SPECIAL_TOKENS["[UNK]"])}
    first_id = SPECIAL_TOKENS["[MASK]"] + 1
    return SPECIAL_TOKENS | unused | {token: first_id + i for i, token in enumerate(tokens)}


def name_tokenizer() -> Tokenizer:
    """Return the tokenizer: lower case, ``[CLS] ... [SEP]``, cut or padded to 20 tokens."""
    tokenizer = Tokenizer(WordPiece(build_vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(
        ("[SEP]", SPECIAL_TOKENS["[SEP]"]), ("[CLS]", SPECIAL_TOKENS["[CLS]"])
    )
    tokenizer.enable_truncation(TEXT_LENGTH)
    tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=SPECIAL_TOKENS["[PAD]"], pad_token="[PAD]")
    return tokenizer


def tokenize_names(names: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Tokenize taxonomic names.

    Parameters
    ----------
    names : sequence of str
        Names such as ``"Diptera Culicidae Aedes Aedes albopictus"``; ranks may be missing.

    Returns
    -------
    dict of str to numpy.ndarray
        The schema's three ``language_tokens`` columns, each int64, shape ``(N, 20)``.
    """
    encodings = name_tokenizer().encode_batch(list(names))
    rows = {
        TEXT_IDS: [encoding.ids for encoding in encodings],
        TEXT_TYPE_IDS: [encoding.type_ids for encoding in encodings],
        TEXT_MASK: [encoding.attention_mask for encoding in encodings],
    }
    return {
        column: np.array(values, dtype=np.int64).reshape(-1, TEXT_LENGTH)
        for column, values in rows.items()
    }
