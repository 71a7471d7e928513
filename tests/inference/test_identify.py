import edlib
import numpy as np
import pandas as pd
import pytest
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.inference.barcodes import UNLIKE_COI
from projects.bioscan_clip.inference.identify import (
    KINDS,
    Queries,
    calibrate,
    identify,
    percent_identity,
)
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.inference.naming import name_specimens
from projects.bioscan_clip.scoring.specimens import Specimens

SPECIES, WIDTH = 40, 24
ABSENT = set(range(0, SPECIES, 5))


class World:
    """Species on a tree, whose specimens' embeddings and barcodes are near those of relatives."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        nodes = [self.rng.normal(size=(SPECIES // size, WIDTH)) for size in (8, 4, 2, 1)]
        self.centres = sum(
            scale * np.repeat(part, SPECIES // len(part), axis=0)
            for scale, part in zip((2, 1.5, 1, 1), nodes, strict=True)
        )
        root = self.rng.integers(0, 4, 400)
        self.barcodes = np.stack([self._mutated(root, 0.1) for _ in range(SPECIES)])

    def _mutated(self, bases, share):
        changed = self.rng.random(len(bases)) < share
        return np.where(changed, self.rng.integers(0, 4, len(bases)), bases)

    def draw(self, count, absent=()):
        kept = [one for one in range(SPECIES) if one not in absent]
        species = self.rng.choice(kept, count)
        rgb = self.centres[species] + 1.0 * self.rng.normal(size=(count, WIDTH))
        dna = self.centres[species] + 0.4 * self.rng.normal(size=(count, WIDTH))
        texts = [
            "".join("ACGT"[base] for base in self._mutated(self.barcodes[one], 0.01))
            for one in species
        ]
        names = {
            rank: [f"{rank}{one // size}" for one in species]
            for rank, size in zip(RANKS, (8, 4, 2, 1), strict=True)
        }
        ids = [f"S{self.rng.integers(10**12)}" for _ in range(count)]
        table = pd.DataFrame({"sampleid": ids, **names, "barcode": texts}, dtype="string")
        labels = [encode_taxa(table[rank].to_numpy(dtype=bytes)) for rank in RANKS]
        return Specimens(
            torch.from_numpy(np.stack(labels, axis=1)),
            rgb=torch.from_numpy(rgb.astype(np.float32)),
            dna=torch.from_numpy(dna.astype(np.float32)),
            table=table,
        )


def asked(specimens, kind="both"):
    return Queries(
        None if kind == "barcode" else specimens.rgb.numpy(),
        None if kind == "photo" else specimens.dna.numpy(),
        None if kind == "photo" else specimens.table["barcode"].tolist(),
    )


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def library(world, tmp_path_factory):
    library = ReferenceLibrary.build(
        tmp_path_factory.mktemp("identify") / "lib", world.draw(600, ABSENT), "m"
    )
    labelled = world.draw(600)
    own = labelled.table["sampleid"].tolist()
    library.set_calibration(calibrate(library, asked(labelled), labelled.labels.numpy(), own))
    return ReferenceLibrary.open(library.folder)


@pytest.mark.parametrize("kind", KINDS)
def test_accepted_names_are_as_often_right_as_was_asked_for(world, library, kind):
    queries = world.draw(800)
    named = identify(library, asked(queries, kind), precision=0.9)
    assert (named["query"] == kind).all()
    for rank in RANKS:
        right = named[rank] == queries.table[rank].to_numpy()
        accepted = named[f"{rank}_accepted"].to_numpy()
        assert right[accepted].mean() > 0.87
        assert not (named[f"{rank}_confidence"] > 1).any()
    assert named["family_accepted"].mean() > 0.5
    absent = queries.table["species"].isin([f"species{one}" for one in ABSENT]).to_numpy()
    assert named["species_accepted"][absent].mean() < 0.5 * named["species"][absent].notna().mean()
    assert named["in_library"][absent].mean() < named["in_library"][~absent].mean() - 0.2


def test_the_answer_is_the_deepest_rank_that_passes(world, library):
    named = identify(library, asked(world.draw(300), "photo"), precision=0.9)
    passes = named[[f"{rank}_accepted" for rank in RANKS]].to_numpy()
    assert not (np.diff(passes.astype(int), axis=1) > 0).any()
    confidence = named[[f"{rank}_confidence" for rank in RANKS]].to_numpy()
    assert (np.diff(confidence, axis=1) <= 0).all()
    for depth in np.unique(passes.sum(axis=1)):
        row = named.iloc[int(np.argmax(passes.sum(axis=1) == depth))]
        if depth == 0:
            assert pd.isna(row["accepted_rank"])
            assert row["answer"] == "order uncertain"
        else:
            assert row["accepted_rank"] == RANKS[depth - 1]
            assert row["accepted_name"] == row[RANKS[depth - 1]]
            path = " > ".join(row[rank] for rank in RANKS[:depth])
            assert row["answer"] == (path if depth == 4 else f"{path}; {RANKS[depth]} uncertain")
    assert len(np.unique(passes.sum(axis=1))) > 1


def test_kinds_may_be_mixed_and_a_specimen_with_nothing_has_no_name(world, library):
    queries = world.draw(5)
    mixed = asked(queries)
    mixed.rgb[[0, 3]] = 0
    mixed.dna[[1, 3]] = np.nan
    named = identify(library, mixed)
    assert named["query"].tolist() == ["barcode", "photo", "both", "", "both"]
    assert pd.isna(named["answer"][3])
    alone = library.identify(Queries(dna=mixed.dna[:1], barcodes=mixed.barcodes[:1]))
    pd.testing.assert_series_equal(named.iloc[0], alone.iloc[0])


def test_a_text_that_is_no_barcode_gets_no_name(world, library):
    queries = asked(world.draw(3))
    queries.rgb[1] = 0
    notes = [f"barcode: {UNLIKE_COI}", f"barcode: {UNLIKE_COI}", ""]
    described = pd.DataFrame({"id": list("abc"), "error": "", "note": notes})
    named = name_specimens(library, queries, described, precision=0.9, top_k=5)
    assert named["query"].tolist() == ["photo", "", "both"]
    assert named["answer"].isna().tolist() == [False, True, False]
    assert queries.dna.any(axis=1).all()  # what was asked is left as it was


def test_nearest_barcodes_are_ranked_by_alignment(world, library):
    queries = world.draw(20)
    named = identify(library, asked(queries, "barcode"), top_k=4)
    table = library.table(np.arange(600)).assign(barcode=library.barcodes(np.arange(600)))
    known = table.set_index("sampleid")["barcode"]
    for barcode, row in zip(queries.table["barcode"], named.itertuples(), strict=True):
        expected = [
            100 * (1 - edlib.align(barcode, known[name])["editDistance"] / 400)
            for name in row.nearest_ids
        ]
        assert row.nearest_identities == pytest.approx(expected, abs=0.01)
        assert row.nearest_identities == sorted(row.nearest_identities, reverse=True)
        assert len(row.nearest_similarities) == len(row.nearest_names) == 4
    assert identify(library, asked(queries, "photo"))["nearest_identities"].tolist() == [[]] * 20


def test_equally_near_specimens_of_other_species_are_a_conflict(world, tmp_path):
    known = world.draw(40)
    twin = known.dna.numpy()[[0, 0]]
    names = known.table["species"].tolist()
    other = next(row for row, name in enumerate(names) if name != names[0])
    known.dna[other] = known.dna[0]
    texts = known.table["barcode"].tolist()
    texts[other] = texts[0]
    known.table["barcode"] = texts
    library = ReferenceLibrary.build(tmp_path / "lib", known, "m")
    named = identify(library, Queries(dna=twin, barcodes=[texts[0]] * 2))
    assert named["conflict"].tolist() == [", ".join(sorted({names[0], names[other]}))] * 2


def test_without_a_calibration_no_probability_is_shown(world, tmp_path):
    library = ReferenceLibrary.build(tmp_path / "lib", world.draw(100), "m")
    named = identify(library, asked(world.draw(5)))
    assert named["answer"].str.startswith("nearest: species").all()
    assert named["accepted_rank"].isna().all()
    assert named[[f"{rank}_confidence" for rank in RANKS]].isna().all(axis=None)
    assert named["in_library"].isna().all()
    assert named["species"].notna().all()


def test_photos_are_compared_with_barcodes_where_there_are_no_photos(world, tmp_path):
    known = world.draw(300)
    known.rgb = None
    library = ReferenceLibrary.build(tmp_path / "lib", known, "m")
    queries = world.draw(50)
    named = identify(library, asked(queries, "photo"))
    assert (named["order"] == queries.table["order"].to_numpy()).mean() > 0.9
    assert identify(library, asked(queries))["query"].tolist() == ["both"] * 50


def test_specimens_that_calibrate_do_not_find_themselves(world, tmp_path):
    """A library of the same specimens is calibrated as one without them."""
    known, labelled = world.draw(300, ABSENT), world.draw(200)
    without = ReferenceLibrary.build(tmp_path / "a", known, "m")
    containing = ReferenceLibrary.build(tmp_path / "b", [known, labelled], "m")
    own = labelled.table["sampleid"].tolist()
    results = [
        calibrate(one, asked(labelled), labelled.labels.numpy(), own)
        for one in (without, containing)
    ]
    for kind in KINDS:
        one, other = (result[kind]["calibration"] for result in results)
        assert one["temperature"] == other["temperature"]
        assert np.array(one["weights"]) == pytest.approx(np.array(other["weights"]), rel=1e-3)


def test_too_few_labelled_specimens_are_an_error(world, library):
    few = world.draw(30)
    with pytest.raises(ValueError, match=r"Nothing can be calibrated.*at least 60"):
        calibrate(library, asked(few), few.labels.numpy())


def test_identity_counts_where_both_have_bases():
    assert percent_identity("ACGTACGTAC", "ACGTACGTAC") == 100
    assert percent_identity("ACGTACGTAC", "ACGAACGTAC") == 90
    assert percent_identity("NNGTACGTAC", "ACGTACGTAC") == 100
    assert percent_identity("NNGTACGTNN", "ACGTACGT") == 100
    assert percent_identity("ACGTNNGTAC", "ACGTACGAAC") == pytest.approx(100 * (1 - 1 / 8))
    assert np.isnan(percent_identity("ACGTNNNN", "NNNNACGT"))


def test_barcodes_that_the_model_misplaces_are_found_by_kmers(world, tmp_path):
    """Embeddings of noise; only the barcodes tell who is who."""
    known, queries = world.draw(400), world.draw(40)
    for specimens in (known, queries):
        specimens.dna = torch.randn(specimens.dna.shape)
    library = ReferenceLibrary.build(tmp_path / "lib", known, "m")
    named = identify(library, asked(queries, "barcode"))
    assert (named["species"] == queries.table["species"].to_numpy()).mean() > 0.9
    similarities = np.array([row[0] for row in named["nearest_similarities"]])
    first = [known.table["sampleid"].tolist().index(row[0]) for row in named["nearest_ids"]]
    expected = torch.cosine_similarity(queries.dna, known.dna[first]).numpy()
    assert similarities == pytest.approx(expected, abs=2e-3)
    restricted = library.restrict_to({"order": "order0"})
    assert set(identify(restricted, asked(queries, "barcode"))["order"]) == {"order0"}
