"""Taxonomic names to WordPiece tokens, the input of BERT."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_LENGTH, TEXT_MASK, TEXT_TYPE_IDS

SAMPLE_VOCABULARY: Final = Path(__file__).parents[1] / "encoders" / "bert-sample" / "vocab.txt"
"""The vocabulary of the sample's invented names: letters, syllables and endings."""

_FILES = ("tokenizer.json", "vocab.txt")


class TaxonTokenizer:
    """Tokenize taxonomic names: ``[CLS] ... [SEP]``, cut or padded to 20 tokens.

    Parameters
    ----------
    file : pathlib.Path
        A ``tokenizer.json``, or the ``vocab.txt`` of an uncased BERT: one token per line, its
        number the token's id.

    Raises
    ------
    ValueError
        If the file is no tokenizer, or one without BERT's special tokens.

    Examples
    --------
    >>> TaxonTokenizer(SAMPLE_VOCABULARY)(["Diptera"])["language_tokens_input_ids"][0, :3]
    array([ 101,  142, 1130])
    """

    def __init__(self, file: Path) -> None:
        try:
            self._tokenizer = (
                Tokenizer.from_file(str(file)) if file.suffix == ".json" else _uncased_bert(file)
            )
            padding = self._tokenizer.get_vocab()["[PAD]"]
            self._tokenizer.enable_truncation(TEXT_LENGTH)
            self._tokenizer.enable_padding(length=TEXT_LENGTH, pad_id=padding)
        except Exception as error:  # `tokenizers` raises no narrower one
            raise ValueError(
                f"{file} is not the tokenizer of a BERT ({error}): it should be its tokenizer.json "
                "or vocab.txt, with [PAD], [UNK], [CLS] and [SEP]."
            ) from error

    @classmethod
    def from_pretrained(cls, name: str) -> "TaxonTokenizer":
        """Load the tokenizer of a pretrained model.

        Parameters
        ----------
        name : str
            A folder with ``tokenizer.json`` or ``vocab.txt``, or a model on the Hugging Face Hub.

        Returns
        -------
        TaxonTokenizer
            The tokenizer.

        Raises
        ------
        OSError
            If there is neither such a folder, nor a cached file, nor one to be downloaded.
        """
        problem: Exception | None = None
        for file in _FILES:
            local = Path(name).expanduser() / file
            if local.is_file():
                return cls(local)
        for file in _FILES:
            try:
                return cls(Path(hf_hub_download(name, file)))
            except EntryNotFoundError as error:
                problem = error
            except (OSError, ValueError) as error:
                problem = error
                break
        raise OSError(
            f"The tokenizer {name!r} cannot be loaded: run where there is internet, so that it is "
            f"downloaded and cached, or name a local folder that holds {' or '.join(_FILES)}."
        ) from problem

    def __call__(self, names: Iterable[str]) -> dict[str, npt.NDArray[np.int64]]:
        """Tokenize names.

        Parameters
        ----------
        names : iterable of str
            N names such as ``"Diptera Culicidae Aedes Aedes albopictus"``; ranks may be missing.

        Returns
        -------
        dict of str to numpy.ndarray
            Ids, type ids and attention mask by the names of the schema's columns, each int64, shape
            ``(N, 20)``.
        """
        encodings = self._tokenizer.encode_batch(list(names))
        rows = {
            TEXT_IDS: [encoding.ids for encoding in encodings],
            TEXT_TYPE_IDS: [encoding.type_ids for encoding in encodings],
            TEXT_MASK: [encoding.attention_mask for encoding in encodings],
        }
        return {
            column: np.array(values, dtype=np.int64).reshape(-1, TEXT_LENGTH)
            for column, values in rows.items()
        }

    def save(self, file: Path) -> None:
        """Write it as a ``tokenizer.json``."""
        self._tokenizer.save(str(file))


def _uncased_bert(vocabulary: Path) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece.from_file(str(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer
