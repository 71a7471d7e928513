import numpy as np
import pytest
import torch

from projects.bioscan_clip.datasets.barcodes import CORRUPTIONS, damage_barcode
from projects.bioscan_clip.datasets.correction import KmerCorrection
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

TOKENIZER = KmerTokenizer()
RNG = np.random.default_rng(0)
ANCESTOR = RNG.choice(list("ACGT"), 660)


def relatives(count: int) -> list[str]:
    """Return barcodes with one base in ten of their own each."""
    own = RNG.random((count, 660)) < 0.1
    return ["".join(row) for row in np.where(own, RNG.choice(list("ACGT"), own.shape), ANCESTOR)]


KNOWN = relatives(40)


def change(barcode: str, place: int) -> str:
    return barcode[:place] + "ACGT"["CGTA".index(barcode[place])] + barcode[place + 1 :]


def corrected(barcode: str, tokenizer: KmerTokenizer = TOKENIZER) -> torch.Tensor:
    return KmerCorrection(tokenizer, tokenizer(KNOWN))(tokenizer([barcode]))[0]


def damaged(name: str, barcodes: list[str]) -> list[str]:
    rng = np.random.default_rng(1)
    return [damage_barcode(text.encode(), rng, CORRUPTIONS[name]).decode() for text in barcodes]


def test_known_barcodes_stay():
    tokens = TOKENIZER(KNOWN)
    assert KmerCorrection(TOKENIZER, tokens)(tokens).equal(tokens)


@pytest.mark.parametrize("place", [0, 1, 330, 658, 659])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, KmerTokenizer(cls_token=False)])
def test_a_wrong_base_is_corrected(place, tokenizer):
    assert corrected(change(KNOWN[3], place), tokenizer).equal(tokenizer(KNOWN[3]))


def test_the_barcode_that_agrees_around_it_is_asked():
    """Known barcodes differ in these k-mers, and in those around them."""
    joined = KNOWN[3][:330] + KNOWN[5][330:]
    assert corrected(change(change(joined, 101), 501)).equal(TOKENIZER(joined))


def test_a_base_that_a_known_barcode_has_is_no_error():
    """It is the only one of many, which agree as well, that has it."""
    variant = change(KNOWN[3], 101)
    known = TOKENIZER([variant, *[KNOWN[3]] * 9, KNOWN[5]])
    read = TOKENIZER([variant])
    assert KmerCorrection(TOKENIZER, known)(read).equal(read)


def test_two_wrong_bases_of_a_kmer_stay():
    read = change(change(KNOWN[3], 101), 103)
    assert corrected(read).equal(TOKENIZER(read))


def test_a_barcode_in_another_frame_stays():
    read = KNOWN[3][2:]
    assert corrected(read).equal(TOKENIZER(read))


def test_what_was_not_read_is_not_filled_in():
    read = KNOWN[3][:100] + "N" * 40 + KNOWN[3][140:600]
    assert corrected(read).equal(TOKENIZER(read))


@pytest.mark.parametrize(("name", "left"), [("bases_1", 0.005), ("bases_5", 0.06)])
@pytest.mark.parametrize("stride", [5, 1])
def test_most_errors_are_corrected(name, left, stride):
    """What is left are mostly k-mers with two false bases."""
    tokenizer = KmerTokenizer(stride=stride)
    known = tokenizer(KNOWN)
    read = tokenizer(damaged(name, KNOWN))
    wrong = (read != known).float().mean()
    still = (KmerCorrection(tokenizer, known)(read) != known).float().mean()
    assert wrong > 4 * still
    assert still < left
