import json

import numpy as np
import pandas as pd
import pytest
import torch

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.datasets.taxonomy import encode_taxa
from projects.bioscan_clip.inference.library import ReferenceLibrary
from projects.bioscan_clip.scoring.specimens import Specimens

WIDTH = 16


def specimens(count, seed=0, rgb=True, dna=True, first=0):
    rng = np.random.default_rng(seed)
    species = rng.integers(0, 12, count)
    table = pd.DataFrame(
        {
            "sampleid": [f"S{first + row}" for row in range(count)],
            "processid": [f"P{first + row}" for row in range(count)],
            **{rank: [f"{rank}{one // 3 ** (3 - depth)}" for one in species]
               for depth, rank in enumerate(RANKS)},
            "bin": "BOLD:AAA0001",
            "barcode": ["ACGT" * (10 + row % 3) for row in range(count)] if dna else None,
        },
        dtype="string",
    )  # fmt: skip
    labels = np.stack([encode_taxa(table[rank].to_numpy(dtype=bytes)) for rank in RANKS], axis=1)
    vectors = {
        name: torch.from_numpy(rng.normal(size=(count, WIDTH)).astype(np.float32))
        for name, wanted in (("rgb", rgb), ("dna", dna))
        if wanted
    }
    return Specimens(torch.from_numpy(labels), table=table, **vectors)


def halves(known, at):
    return known[torch.arange(at)], known[torch.arange(at, len(known))]


def unit(values):
    values = np.asarray(values, dtype=np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def queries():
    return np.random.default_rng(7).normal(size=(20, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("feature", ["rgb", "dna", "both"])
def test_search_equals_all_products(tmp_path, queries, feature):
    known = specimens(300)
    library = ReferenceLibrary.build(tmp_path / "lib", halves(known, 100), "m")
    keys = {"rgb": unit(known.rgb), "dna": unit(known.dna)}
    if feature != "both":
        products = unit(queries) @ keys[feature].T
    else:
        products = 0.3 * unit(queries) @ keys["rgb"].T + 0.7 * unit(queries[::-1]) @ keys["dna"].T
        queries = np.concatenate([0.3 * unit(queries), 0.7 * unit(queries[::-1])], axis=1)
    found = ReferenceLibrary.open(tmp_path / "lib").search(queries, feature, k=5)
    assert found.similarities == pytest.approx(-np.sort(-products, axis=1)[:, :5], abs=2e-3)
    assert (found.rows == np.argsort(-products, axis=1)[:, :5]).mean() > 0.97  # half precision
    assert library.features == ("rgb", "dna", "both")


def test_it_gives_back_names_and_barcodes(tmp_path):
    known = specimens(50)
    ReferenceLibrary.build(
        tmp_path / "lib",
        halves(known, 20),
        "m",
        model="best.ckpt",
    )
    library = ReferenceLibrary.open(tmp_path / "lib")
    rows = np.array([40, 3, 19, 20])
    table = library.table(rows)
    for column in ("sampleid", "species", "bin"):
        assert table[column].tolist() == known.table[column].iloc[rows].tolist()
    assert table["place"].isna().all()
    assert library.barcodes(rows) == known.table["barcode"].iloc[rows].tolist()
    assert (library.labels == known.labels.numpy()).all()
    assert library.about["model"] == {"hash": "m", "source": "best.ckpt"}


def test_a_specimen_without_a_photo_is_not_found_by_photos(tmp_path, queries):
    known = specimens(40)
    known.rgb[::2] = 0
    library = ReferenceLibrary.build(tmp_path / "lib", [known, specimens(5, rgb=False)], "m")
    found = library.search(queries, "rgb", k=30)
    assert found.rows.shape == (20, 20)
    assert set(found.rows.ravel()) == set(range(1, 40, 2))
    both = np.concatenate([queries, queries], axis=1)
    assert set(library.search(both, "both", k=30).rows.ravel()) == set(range(1, 40, 2))
    assert library.search(queries, "dna", k=45).rows.min() == 0


def test_a_library_of_barcodes_alone_is_not_searched_by_photos(tmp_path, queries):
    library = ReferenceLibrary.build(tmp_path / "lib", specimens(10, rgb=False), "m")
    assert library.features == ("dna",)
    with pytest.raises(ValueError, match="cannot be searched by rgb; it has dna"):
        library.search(queries, "rgb")


def test_removed_specimens_are_not_found_and_compact_drops_them(tmp_path, queries):
    library = ReferenceLibrary.build(
        tmp_path / "lib", [specimens(20), specimens(20, 1, first=20)], "m"
    )
    everything = library.search(queries, "rgb", k=3)
    gone = library.table(np.unique(everything.rows[:, 0]))["sampleid"].tolist()
    assert library.remove(gone) == len(gone)
    library = ReferenceLibrary.open(tmp_path / "lib")
    assert len(library) == 40 - len(gone)
    expected = library.search(queries, "rgb", k=3)
    assert not set(library.table(expected.rows.ravel())["sampleid"]) & set(gone)
    names = library.table(expected.rows.ravel())["sampleid"].tolist()
    library.compact()
    library = ReferenceLibrary.open(tmp_path / "lib")
    assert library.about["removed"] is None
    assert len(library.about["segments"]) == 1
    again = library.search(queries, "rgb", k=3)
    assert library.table(again.rows.ravel())["sampleid"].tolist() == names
    assert again.similarities == pytest.approx(expected.similarities, abs=1e-3)


def test_specimens_can_be_added_later(tmp_path, queries):
    known = specimens(60)
    whole = ReferenceLibrary.build(tmp_path / "whole", known, "m")
    library = ReferenceLibrary.build(tmp_path / "lib", halves(known, 30)[0], "m")
    library.remove(["S3"])
    library.add(halves(known, 30)[1], "m")
    library = ReferenceLibrary.open(tmp_path / "lib")
    others = whole.where(np.arange(60) != 3)
    assert (library.search(queries, "dna").rows == others.search(queries, "dna").rows).all()


def test_unknown_ids_are_named_and_nothing_is_removed(tmp_path):
    library = ReferenceLibrary.build(tmp_path / "lib", specimens(5), "m")
    with pytest.raises(ValueError, match="no specimen X; nothing was removed"):
        library.remove(["S1", "X"])
    assert len(ReferenceLibrary.open(tmp_path / "lib")) == 5


def test_restricted_to_taxa_it_finds_what_a_smaller_library_would(tmp_path, queries):
    library = ReferenceLibrary.build(tmp_path / "lib", specimens(100), "m")
    restricted = library.restrict_to({"genus": ["genus1", "genus2"]})
    found = restricted.search(queries, "rgb", k=4)
    assert set(library.table(found.rows.ravel())["genus"]) == {"genus1", "genus2"}
    allowed = np.isin(library.table(np.arange(100))["genus"], ["genus1", "genus2"])
    everything = library.search(queries, "rgb", k=100).rows
    first = [row[allowed[row]][:4].tolist() for row in everything]
    assert found.rows.tolist() == first
    with pytest.raises(ValueError, match="restricted"):
        restricted.remove(["S1"])


def test_another_models_embeddings_are_refused(tmp_path):
    library = ReferenceLibrary.build(tmp_path / "lib", specimens(5), "m1")
    with pytest.raises(ValueError, match=r"built with another model \(m1\) than this one \(m2\)"):
        library.add(specimens(5), "m2")
    with pytest.raises(ValueError, match="16 dimensions"):
        library.search(np.ones((1, 8), dtype=np.float32), "rgb")


def test_an_index_finds_nearly_all_and_ranks_exactly(tmp_path):
    known = specimens(4000)
    centres = np.random.default_rng(3).normal(size=(80, WIDTH))
    known.rgb[:] += torch.from_numpy(3 * np.repeat(centres, 50, axis=0))
    exact = ReferenceLibrary.build(tmp_path / "exact", known, "m")
    first, second = halves(known, 3500)
    library = ReferenceLibrary.build(tmp_path / "lib", first, "m", exact_up_to=1000)
    assert library.about["index"]["rgb"]["recall"] >= 0.98
    assert library.about["index"]["rgb"]["visited"] < 236
    library.add(second, "m")
    library.remove(["S5", "S3999"])
    library = ReferenceLibrary.open(tmp_path / "lib")
    queries = known.rgb[::40].numpy() + 0.1
    others = exact.where(~np.isin(np.arange(4000), [5, 3999]))
    both = unit(queries), unit(known.dna[::40].numpy() + 0.1)
    for feature, asked in (("rgb", queries), ("both", np.concatenate(both, axis=1))):
        found, expected = (one.search(asked, feature, k=10) for one in (library, others))
        share = np.mean(
            [len(set(a) & set(b)) for a, b in zip(found.rows, expected.rows, strict=True)]
        )
        assert share >= 8.5
        assert (np.diff(found.similarities, axis=1) <= 0).all()
        same = found.rows == expected.rows
        assert found.similarities[same] == pytest.approx(expected.similarities[same], abs=1e-5)
        assert not {5, 3999} & set(found.rows.ravel())
    few = library.restrict_to({"species": "species1"})
    expected = others.restrict_to({"species": "species1"}).search(queries, "rgb", k=10)
    assert (few.search(queries, "rgb", k=10).rows == expected.rows).all()


def test_a_build_that_is_killed_leaves_the_old_library(tmp_path, queries):
    library = ReferenceLibrary.build(tmp_path / "lib", specimens(10), "m")
    before = library.search(queries, "rgb").rows

    def interrupted():
        yield specimens(20, 1)
        raise KeyboardInterrupt

    for change in (
        lambda: ReferenceLibrary.build(tmp_path / "lib", interrupted(), "m", force=True),
        lambda: ReferenceLibrary.open(tmp_path / "lib").add(interrupted(), "m"),
    ):
        with pytest.raises(KeyboardInterrupt):
            change()
        assert (ReferenceLibrary.open(tmp_path / "lib").search(queries, "rgb").rows == before).all()
    library = ReferenceLibrary.open(tmp_path / "lib")
    library.set_calibration({})
    named = {segment["name"] for segment in library.about["segments"]}
    assert {path.name for path in (tmp_path / "lib").iterdir()} == {"library.json", *named}


def test_a_first_build_that_is_killed_leaves_none_and_can_be_repeated(tmp_path):
    def interrupted():
        yield specimens(20, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ReferenceLibrary.build(tmp_path / "lib", interrupted(), "m")
    with pytest.raises(FileNotFoundError, match="no reference library"):
        ReferenceLibrary.open(tmp_path / "lib")
    assert len(ReferenceLibrary.build(tmp_path / "lib", specimens(3), "m")) == 3


def test_what_is_there_is_not_overwritten(tmp_path):
    ReferenceLibrary.build(tmp_path / "lib", specimens(3), "m")
    with pytest.raises(FileExistsError, match="--force"):
        ReferenceLibrary.build(tmp_path / "lib", specimens(3), "m")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="other files"):
        ReferenceLibrary.build(tmp_path / "mine", specimens(3), "m", force=True)


def test_damaged_and_later_libraries_are_refused(tmp_path):
    ReferenceLibrary.build(tmp_path / "lib", specimens(3), "m")
    file = tmp_path / "lib" / "library.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"format_version": 2}))
    with pytest.raises(ValueError, match="format 2"):
        ReferenceLibrary.open(tmp_path / "lib")
    file.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        ReferenceLibrary.open(tmp_path / "lib")


def test_an_empty_library_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no specimens"):
        ReferenceLibrary.build(tmp_path / "lib", [], "m")
