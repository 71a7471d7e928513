"""Expected tokens come from transformers, by which the published files were made."""

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from projects.bioscan_clip.datasets import names
from projects.bioscan_clip.datasets.names import SAMPLE_VOCABULARY, TaxonTokenizer
from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_MASK, TEXT_TYPE_IDS

NAMES = ["Diptera", "Diptera Culicidae Aedes Aedes albopictus", "not_classified", "xyz" * 30, ""]


@pytest.fixture(scope="module")
def tokenizer() -> TaxonTokenizer:
    return TaxonTokenizer(SAMPLE_VOCABULARY)


@pytest.fixture(scope="module")
def reference() -> BertTokenizerFast:
    return BertTokenizerFast.from_pretrained(SAMPLE_VOCABULARY.parent)


def expected_columns(reference: BertTokenizerFast, texts: list[str]) -> dict[str, np.ndarray]:
    encoded = reference(
        texts, padding="max_length", truncation=True, max_length=20, return_token_type_ids=True
    )
    keys = {TEXT_IDS: "input_ids", TEXT_TYPE_IDS: "token_type_ids", TEXT_MASK: "attention_mask"}
    return {column: np.array(encoded[key]) for column, key in keys.items()}


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=4))
def test_equals_the_tokenizer_of_transformers(tokenizer, reference, drawn):
    texts = [*NAMES, *drawn]
    columns = tokenizer(texts)
    for column, expected in expected_columns(reference, texts).items():
        assert columns[column].dtype == np.int64
        assert columns[column].tolist() == expected.tolist()


def test_columns_are_what_bert_reads(tokenizer):
    columns = tokenizer(NAMES[:2])
    ids, mask = columns[TEXT_IDS], columns[TEXT_MASK]
    assert ids.shape == mask.shape == columns[TEXT_TYPE_IDS].shape == (2, 20)
    assert (ids[:, 0] == 101).all()
    assert (ids == 102).sum(axis=1).tolist() == [1, 1]
    np.testing.assert_array_equal(mask, ids != 0)
    np.testing.assert_array_equal(np.sort(mask)[:, ::-1], mask)
    assert tokenizer([])[TEXT_IDS].shape == (0, 20)


def test_folder_of_a_model(reference, tokenizer, tmp_path):
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    for folder in (tmp_path, SAMPLE_VOCABULARY.parent):
        loaded = TaxonTokenizer.from_pretrained(str(folder))
        assert loaded(NAMES)[TEXT_IDS].tolist() == tokenizer(NAMES)[TEXT_IDS].tolist()


def test_model_on_the_hub_that_has_a_vocabulary_only(tokenizer, monkeypatch):
    """Such as prajjwal1/bert-small, whose tokens the published files hold."""

    def download(name: str, file: str) -> str:
        if file != "vocab.txt":
            raise LocalEntryNotFoundError(file)
        return str(SAMPLE_VOCABULARY)

    monkeypatch.setattr(names, "hf_hub_download", download)
    loaded = TaxonTokenizer.from_pretrained("someone/bert")
    assert loaded(NAMES)[TEXT_IDS].tolist() == tokenizer(NAMES)[TEXT_IDS].tolist()


@pytest.mark.parametrize("name", ["someone/not-cached", "no name/at all/", "{folder}"])
def test_tokenizer_that_is_not_there(name, tmp_path):
    with pytest.raises(OSError, match=r"cannot be loaded.*tokenizer\.json or vocab\.txt"):
        TaxonTokenizer.from_pretrained(name.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'),
        ("vocab.txt", "a\nb\n"),
        ("vocab.txt", None),
    ],
)
def test_file_that_is_no_tokenizer_of_bert(tmp_path, file, content):
    path = tmp_path / file
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"{file} is not the tokenizer of a BERT"):
        TaxonTokenizer(path)
