import numpy as np

from projects.bioscan_clip.inference.kmers import KmerIndex


def kmers(text, stride=1):
    found = {text[place : place + 8] for place in range(0, len(text) - 7, stride)}
    return {kmer for kmer in found if "N" not in kmer}


def test_those_that_share_most_are_found():
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(50)]
    known += [text[:30] + known[0][30:] for text in known[1:20]]
    known[7], known[8] = "", "ACGTN" * 12
    queries = [known[0][3:40] + "N" + known[5], known[12]]
    allowed = np.ones(len(known), dtype=bool)
    allowed[12] = False
    found = KmerIndex([known[:40], known[40:]]).search(queries, allowed, 5)
    for query, rows in zip(queries, found, strict=True):
        shared = np.array([len(kmers(query, 4) & kmers(text)) for text in known]) * allowed
        assert sorted(shared[rows[rows >= 0]]) == sorted(
            np.sort(shared)[-5:][np.sort(shared)[-5:] > 0]
        )
        assert 12 not in rows


def test_what_most_barcodes_have_does_not_count():
    rng = np.random.default_rng(0)
    common, *own = ("".join(rng.choice(list("ACGT"), 40)) for _ in range(1501))
    index = KmerIndex([[common + text for text in own]])
    found = index.search([common + own[7], common], np.ones(1500, dtype=bool), 2)
    assert found[0, 0] == 7
    assert found[1].tolist() == [-1, -1]
