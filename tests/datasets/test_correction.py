import torch

from projects.bioscan_clip.datasets.correction import KmerCorrection
from projects.bioscan_clip.datasets.tokenizer import UNKNOWN_ID, KmerTokenizer

TOKENIZER = KmerTokenizer(k=2, stride=2, max_length=6)
KNOWN = ["ACGTTT", "ACGTTT", "AAGTCC", "ACGT"]


def corrected(barcode: str) -> torch.Tensor:
    return KmerCorrection(TOKENIZER(KNOWN), k=2)(TOKENIZER([barcode]))[0]


def test_known_barcodes_stay():
    tokens = TOKENIZER(KNOWN)
    assert KmerCorrection(tokens, k=2)(tokens).equal(tokens)


def test_the_most_frequent_kmer_one_base_away_is_taken():
    assert corrected("AGGTTA").equal(TOKENIZER("ACGTTT"))  # AC is there three times, AA once
    assert corrected("AGGTCG").equal(TOKENIZER("ACGTCC"))


def test_a_kmer_of_another_place_is_an_error():
    """TT is known, but not at the second place, where it is one base from GT."""
    assert corrected("ACTTTT").equal(TOKENIZER("ACGTTT"))


def test_without_a_neighbour_nothing_is_known():
    expected = TOKENIZER("ACGTTT")
    expected[2] = UNKNOWN_ID
    assert corrected("ACAATT").equal(expected)


def test_a_barcode_in_another_frame_stays():
    assert corrected("CGTTTA").equal(TOKENIZER("CGTTTA"))


def test_what_is_unknown_stays_so():
    assert corrected("NNGT--").tolist() == TOKENIZER("NNGT--").tolist()


def test_many_errors_in_long_kmers_are_corrected():
    tokenizer = KmerTokenizer()
    torch.manual_seed(0)
    bases = torch.randint(4, (20, 660))
    wrong = bases.clone()
    wrong[:, 2::25] += torch.randint(1, 4, wrong[:, 2::25].shape)
    known, read = (
        tokenizer(["".join("ACGT"[base % 4] for base in row) for row in each.tolist()])
        for each in (bases, wrong)
    )
    assert (read != known).float().mean() > 0.19
    assert (KmerCorrection(known, k=5)(read) == known).float().mean() > 0.95
