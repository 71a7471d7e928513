import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projects.bioscan_clip.inference.barcodes import COI_BARCODES, BarcodePlacer, clean_barcode
from projects.bioscan_clip.sample.barcodes import BARCODE_LENGTH, evolve_barcodes, sequence_specimen
from projects.bioscan_clip.sample.taxonomy import grow_taxonomy

COMPLEMENT = str.maketrans("ACGT", "TGCA")
LCO1490 = "GGTCAACAAATCATAAAGATATTGG"
HCO2198_REVERSED = "TGATTTTTTGGTCACCCTGAAGTTTA"

# A hermit crab's read with the primer and codes of two bases, from a course on sequence files.
HERMIT_CRAB = (
    "GGTCAACAAATCATAAAGATATTGGCACTTTATATTTTATTTTTGGAGCTTGAGCTGGTATGGTAGGATCTTCACTTAGACTAGTTATTC"
    "GAGCCGAACTAGGCCARCCCGGCAGTTTAATTGGAGATGACCAAATCTACAACGTAGTTGTCACAGCCCATGCTTTTGTAATAATTTTTT"
    "TCATRGTAATACCTATTATAATTGGTGGKTTTGGTAATTGATTAGTTCCTTTAATATTAGGAGCYCCGGATATAGCTTTCCCACGAATAA"
    "ACAACATAAGATTCTGATTACTRCCCCCGTCTCTCACTTTATTATTAATAAGAGGAATGGTTGAAAGAGGTGTCGGAACAGGATGAACTG"
)


def standard_barcodes() -> list[str]:
    records = COI_BARCODES.read_text().split(">")[1:]
    return [record.partition("\n")[2].replace("\n", "") for record in records]


@pytest.fixture(scope="module", params=[0, 1])
def sample(request):
    """References as a training split has them, and whole barcodes of species not among them."""
    rng = np.random.default_rng(request.param)
    taxonomy = grow_taxonomy(120, rng)
    species = evolve_barcodes(len(taxonomy.names[0]), taxonomy.parents, rng)
    reads = [sequence_specimen(species[number % 60], rng).decode() for number in range(300)]
    queries = [barcode[:BARCODE_LENGTH].tobytes().decode() for barcode in species[60:]]
    return BarcodePlacer(reads), queries


@pytest.mark.parametrize("start", [0, 1, 5, 25, 60])
@pytest.mark.parametrize("end", [0, 200])
def test_missing_ends_are_found(sample, start, end):
    placer, queries = sample
    prepared = placer.prepare([whole[start : len(whole) - end] for whole in queries])
    for whole, barcode in zip(queries, prepared, strict=True):
        assert barcode.text == "N" * start + whole[start : len(whole) - end]
        assert (barcode.shift, barcode.cut, barcode.is_reversed) == (start, 0, False)


def test_primers_are_cut_off(sample):
    placer, queries = sample
    rng = np.random.default_rng(0)
    for length in (1, 7, 30):
        front, back = ("".join(rng.choice(list("ACGT"), length)) for _ in range(2))
        prepared = placer.prepare([front + whole + back for whole in queries])
        assert [barcode.text for barcode in prepared] == queries
        assert {(barcode.shift, barcode.cut) for barcode in prepared} == {(-length, length)}


def test_strand_case_and_gaps(sample):
    placer, queries = sample
    ragged = [
        "--" + whole[7:200].lower() + "---\n" + whole[200:].replace("T", "u") for whole in queries
    ]
    other_strand = [whole[7:].translate(COMPLEMENT)[::-1] for whole in queries]
    expected = ["N" * 7 + whole[7:] for whole in queries]
    assert [barcode.text for barcode in placer.prepare(ragged)] == expected
    reversed_ = placer.prepare(other_strand)
    assert [barcode.text for barcode in reversed_] == expected
    assert all(barcode.is_reversed for barcode in reversed_)
    assert reversed_[0].describe() == "reverse complement taken, begins at base 8"


def test_a_whole_barcode_stays_as_it_is(sample):
    placer, queries = sample
    for whole, barcode in zip(queries, placer.prepare(queries), strict=True):
        assert (barcode.text, barcode.describe(), barcode.warnings) == (whole, "", ())


def test_invented_barcodes_are_not_checked_for_stop_codons(sample):
    assert sample[0].codon_start is None


def test_other_sequences_are_left_alone_with_a_warning(sample):
    rng = np.random.default_rng(0)
    others = ["".join(rng.choice(list("ACGT"), 658, p=(0.3, 0.16, 0.15, 0.39))) for _ in range(500)]
    others += ["A" * 658, "ATT" * 200, "ACGTACG"]
    prepared = sample[0].prepare(others)
    unlike = ["does not look like a COI barcode" in barcode.warnings for barcode in prepared]
    assert np.mean(unlike) > 0.99
    assert all(unlike[-3:])
    untouched = [text for text, is_other in zip(others, unlike, strict=True) if is_other]
    assert [b.text for b, other in zip(prepared, unlike, strict=True) if other] == untouched


def test_short_and_unknown(sample):
    placer, queries = sample
    short, unknown = placer.prepare([queries[0][100:250], queries[0][:600] + "N" * 40])
    assert short.warnings == ("only 150 known bases",)
    assert unknown.warnings == ("6% of the bases are N",)


def test_standard_region_places_real_barcodes():
    placer = BarcodePlacer()
    assert (placer.length, placer.codon_start) == (658, 1)
    (crab,) = placer.prepare([HERMIT_CRAB])
    assert crab.shift == -len(LCO1490)
    assert crab.text == HERMIT_CRAB[len(LCO1490) :]
    assert crab.warnings == ()


def test_real_barcode_with_both_primers_on_either_strand():
    fly, *others = standard_barcodes()
    placer = BarcodePlacer(others)  # of other orders
    read = LCO1490 + fly + HCO2198_REVERSED
    for strand in (read, read.translate(COMPLEMENT)[::-1]):
        (prepared,) = placer.prepare([strand])
        assert (prepared.text, prepared.shift, prepared.cut) == (fly, -25, 26)


def test_stop_codons_by_the_invertebrate_mitochondrial_code():
    fly = standard_barcodes()[0]
    place = 1 + 3 * 50
    for codon, stops in (("TAA", True), ("TAG", True), ("TGA", False), ("AGA", False)):
        changed = fly[:place] + codon + fly[place + 3 :]
        for start in (0, 1, 2, 50):
            (prepared,) = BarcodePlacer().prepare([changed[start:]])
            assert any("stop codons" in warning for warning in prepared.warnings) == stops


def test_what_is_no_barcode_is_refused():
    with pytest.raises(ValueError, match="'ACGT!' holds '!', which is no code of a nucleotide"):
        clean_barcode("ACGT!")
    with pytest.raises(ValueError, match="is empty"):
        clean_barcode(" --\n")
    with pytest.raises(ValueError, match="only N"):
        clean_barcode("nnNN??")


@given(st.text("ACGTURYSWKMBDHVN?acgtn-. \n"))
def test_cleaning_keeps_each_base_in_place(barcode):
    bases = [base for base in barcode.upper() if base not in "-. \n"]
    if set(bases) <= set("N?"):
        with pytest.raises(ValueError, match=r"empty|only N"):
            clean_barcode(barcode)
        return
    cleaned = clean_barcode(barcode)
    assert len(cleaned) == len(bases)
    assert cleaned == "".join(bases).replace("U", "T").replace("?", "N")
    assert clean_barcode(cleaned) == cleaned


def test_references_may_be_longer_than_the_region(sample):
    _, queries = sample
    references = [*queries[:20], *(barcode + "ACGTTGCA" * 40 for barcode in queries[20:30])]
    placer = BarcodePlacer(references)
    assert placer.length == BARCODE_LENGTH
    prepared = placer.prepare([references[-1][7:]])[0]
    assert (prepared.shift, prepared.text[7:]) == (7, queries[29][7:])
