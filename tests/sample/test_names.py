import numpy as np
import pytest

from projects.bioscan_clip.datasets.schema import TEXT_IDS, TEXT_MASK, TEXT_TYPE_IDS
from projects.bioscan_clip.sample.names import (
    SPECIAL_TOKENS,
    build_vocabulary,
    name_tokenizer,
    tokenize_names,
)
from projects.bioscan_clip.sample.taxonomy import ORDERS, grow_taxonomy

MODEL_VOCABULARY = 2000


@pytest.fixture(scope="module")
def names() -> list[str]:
    taxonomy = grow_taxonomy(200, np.random.default_rng(0))
    return [
        " ".join(taxa[i] for taxa, i in zip(taxonomy.names, lineage, strict=True))
        for lineage in taxonomy.lineages()
    ]


def test_vocabulary_fits_a_small_bert():
    vocabulary = build_vocabulary()
    assert max(vocabulary.values()) < MODEL_VOCABULARY
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_special_tokens_have_the_ids_of_bert():
    tokenizer = name_tokenizer()
    found = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    assert found == {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}


def test_columns_are_what_bert_reads():
    columns = tokenize_names(["Diptera", "Diptera Culicidae Aedes Aedes albopictus"])
    ids, mask = columns[TEXT_IDS], columns[TEXT_MASK]
    for column in columns.values():
        assert column.dtype == np.int64
        assert column.shape == (2, 20)
    assert (ids[:, 0] == 101).all()
    assert (ids == 102).sum(axis=1).tolist() == [1, 1]
    np.testing.assert_array_equal(mask, ids != 0)
    np.testing.assert_array_equal(np.sort(mask)[:, ::-1], mask)
    assert not columns[TEXT_TYPE_IDS].any()


def test_case_makes_no_difference():
    ids = tokenize_names(["Diptera Culicidae", "diptera culicidae"])[TEXT_IDS]
    np.testing.assert_array_equal(ids[0], ids[1])


def test_a_long_name_is_cut_but_keeps_its_end():
    ids = tokenize_names(["xyz" * 30])[TEXT_IDS][0]
    assert ids[0] == 101
    assert ids[-1] == 102


def test_invented_names_fit_and_hold_no_unknown_token(names):
    ids = tokenize_names(names)[TEXT_IDS]
    assert (ids != SPECIAL_TOKENS["[UNK]"]).all()
    tokenizer = name_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lengths = [len(tokenizer.encode(name).ids) for name in names]
    assert np.mean(np.array(lengths) <= 20) > 0.98


def test_different_names_have_different_tokens(names):
    assert len(np.unique(tokenize_names(names)[TEXT_IDS], axis=0)) == len(names)


def test_orders_are_few_tokens():
    assert tokenize_names(ORDERS)[TEXT_MASK].sum(axis=1).max() <= 4


def test_no_names_give_no_rows():
    assert tokenize_names([])[TEXT_IDS].shape == (0, 20)
