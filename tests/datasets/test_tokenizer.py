"""Expected tokens come from the reference tokenizer (fixtures/parity/tokens.json)."""

import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

BARCODES = st.text(alphabet="ACGTNacgt-RYé", max_size=40)


def test_equals_reference(parity):
    expected = json.loads((parity / "tokens.json").read_text())
    tokenizer = KmerTokenizer(expected["k"], expected["stride"], expected["max_length"])
    tokens = tokenizer(expected["barcodes"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == expected["tokens"]


def naive_tokens(barcode: str, k: int, stride: int, max_length: int) -> list[int]:
    vocabulary = {
        "".join(kmer): 3 + number for number, kmer in enumerate(itertools.product("ACGT", repeat=k))
    }
    padded = barcode[:max_length].ljust(max_length, "N")
    starts = range(0, max_length - k + 1, stride)
    return [1, *(vocabulary.get(padded[start : start + k], 2) for start in starts)]


@given(
    barcodes=st.lists(BARCODES, max_size=4),
    k=st.integers(1, 5),
    stride=st.integers(1, 7),
    extra=st.integers(0, 30),
)
def test_equals_naive_loop(barcodes, k, stride, extra):
    tokenizer = KmerTokenizer(k, stride, max_length=k + extra)
    tokens = tokenizer(barcodes)
    assert tokens.shape == (len(barcodes), tokenizer.num_tokens)
    assert tokens.tolist() == [naive_tokens(b, k, stride, k + extra) for b in barcodes]


@given(barcode=BARCODES)
def test_single_barcode_equals_its_row(barcode):
    tokenizer = KmerTokenizer()
    assert tokenizer(barcode).shape == (133,)
    assert tokenizer(barcode).equal(tokenizer([barcode])[0])


def test_bytes_equal_text():
    tokenizer = KmerTokenizer()
    assert tokenizer(b"ACGTACGTN").equal(tokenizer("ACGTACGTN"))


@pytest.mark.parametrize("arguments", [(0, 5, 660), (5, 0, 660), (5, 5, 4)])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="k-mer tokenizer needs"):
        KmerTokenizer(*arguments)
