import base64
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image

from projects.bioscan_clip.datasets.schema import RANKS
from projects.bioscan_clip.reports.gallery import as_data_uri, choose_queries, gallery
from projects.bioscan_clip.scoring.neighbours import Match


def queries(right: int, wrong: int) -> pd.DataFrame:
    names = {f"{side}_{rank}": "same" for side in ("true", "predicted") for rank in RANKS}
    table = pd.DataFrame([names] * (right + wrong), dtype="string")
    table.loc[right:, "predicted_species"] = "other"
    return table.assign(split="seen")


def test_half_of_the_queries_are_right_where_there_are_enough():
    for right, wrong, expected in [(50, 50, 3), (1, 50, 1), (50, 1, 5), (0, 9, 0), (2, 1, 2)]:
        table = queries(right, wrong)
        chosen = choose_queries(table, 6)
        assert sum(row < right for row in chosen) == expected
        assert len(set(chosen)) == len(chosen) == min(6, right + wrong)
        assert chosen == choose_queries(table, 6)
    assert choose_queries(queries(50, 50), 6, seed=1) != choose_queries(queries(50, 50), 6, seed=2)


def test_queries_without_a_name_are_not_chosen():
    table = queries(5, 5)
    table.loc[[0, 1, 2, 5, 6], "true_species"] = pd.NA
    assert set(choose_queries(table, 6)) == {3, 4, 7, 8, 9}


def test_finest_rank_with_names_decides():
    table = queries(3, 3)
    table["true_species"] = pd.NA
    table.loc[:1, "predicted_genus"] = "other"
    chosen = choose_queries(table, 2)
    assert chosen[0] >= 2
    assert chosen[1] < 2


def test_entries_show_neighbours(evaluation, specimens):
    entries = list(gallery(evaluation))
    assert [entry.split for entry in entries] == ["seen"] * 6 + ["unseen"] * 6
    for entry in entries:
        table = specimens[entry.split].table
        row = table.index[table["sampleid"] == entry.query.specimen][0]
        for name, pair in (("photo → barcode", ("rgb", "dna")), ("photo → photo", ("rgb", "rgb"))):
            near = evaluation.neighbours[Match(*pair, entry.split)]
            shown = entry.keys[name]
            keys = specimens["keys"].table.iloc[near.keys[row, :3].tolist()]
            assert [key.specimen for key in shown] == keys["sampleid"].tolist()
            assert [key.similarity for key in shown] == near.similarities[row, :3].tolist()
            for key, species in zip(shown, keys["species"], strict=True):
                assert (key.shared == "species") == (species == table["species"][row])
            photo = specimens["keys"].read_photo(int(near.keys[row, 0]))
            assert shown[0].photo == as_data_uri(photo)


def test_small_photos_stay_as_they_are_and_large_ones_shrink():
    noise = np.random.default_rng(0).integers(0, 255, (500, 300, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    assert len(file.getvalue()) > 20_000
    shrunk = base64.b64decode(as_data_uri(file.getvalue()).split(",")[1])
    assert Image.open(BytesIO(shrunk)).size == (96, 160)
    small = BytesIO()
    Image.fromarray(noise[:20, :20]).save(small, "JPEG")
    assert base64.b64decode(as_data_uri(small.getvalue()).split(",")[1]) == small.getvalue()
    assert as_data_uri(b"") == ""
    assert as_data_uri(b"no picture" * 9999) == ""
