"""One type for specimens: parts that fit, and rows that stay together."""

import numpy as np
import pandas as pd
import pytest
import torch

from projects.bioscan_clip.scoring.specimens import Specimens, table_of


def make(count: int, name: str = "a", **changes: object) -> Specimens:
    parts = {
        "labels": torch.arange(count * 4).view(count, 4),
        "rgb": torch.arange(float(count))[:, None].expand(count, 3),
        "table": pd.DataFrame({"sampleid": [f"{name}{row}" for row in range(count)]}),
        "read_photo": lambda row: f"{name}{row}".encode(),
        "is_seen": torch.arange(count) % 2 == 0,
        "splits": (name,),
        "corrupted": {"bases_5": torch.arange(float(count))[:, None]},
    }
    return Specimens(**{**parts, **changes})


@pytest.mark.parametrize("rows", [torch.tensor([3, 1]), torch.tensor([False, True, False, True])])
def test_rows_stay_together(rows: torch.Tensor) -> None:
    chosen = make(4)[rows]
    expected = [3, 1] if rows.dtype != torch.bool else [1, 3]
    assert chosen.rgb[:, 0].tolist() == expected
    assert chosen.corrupted["bases_5"][:, 0].tolist() == expected
    assert chosen.labels[:, 0].tolist() == [4 * row for row in expected]
    assert chosen.table["sampleid"].tolist() == [f"a{row}" for row in expected]
    assert [chosen.read_photo(row) for row in range(2)] == [f"a{row}".encode() for row in expected]
    assert chosen.is_seen.tolist() == [row % 2 == 0 for row in expected]


def test_sets_put_together() -> None:
    both = Specimens.concatenate([make(2), make(3, "b")])
    ids = ["a0", "a1", "b0", "b1", "b2"]
    assert both.table["sampleid"].tolist() == ids
    assert [both.read_photo(row).decode() for row in range(5)] == ids
    assert both.splits == ("a", "b")
    assert len(both) == len(both.rgb) == len(both.is_seen) == len(both.corrupted["bases_5"]) == 5


def test_what_one_set_lacks_is_left_out() -> None:
    both = Specimens.concatenate([make(2), make(3, "b", rgb=None, read_photo=None, table=None)])
    assert both.rgb is None
    assert both.read_photo is None
    assert both.table is None
    assert len(both.is_seen) == 5


def test_parts_must_fit() -> None:
    with pytest.raises(ValueError, match=r"`labels` must have shape \(N, 4\)"):
        make(4, labels=torch.zeros(4))
    with pytest.raises(ValueError, match=r"`rgb` must have shape \(N, D\) with N = 4"):
        make(4, rgb=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`table` has 1 rows, but `labels` has 4"):
        make(4, table=pd.DataFrame({"sampleid": ["x"]}))
    with pytest.raises(ValueError, match="1 of 4 `rgb` embeddings hold NaN"):
        make(4, rgb=np.array([[0.0], [1.0], [np.nan], [2.0]]))


def test_texts_that_name_nothing_are_missing() -> None:
    names = np.array([b"Diptera", b"not_classified", b"", b"nan"])
    table = table_of({"order": names}, 4)
    assert table["order"].isna().tolist() == [False, True, True, True]
    assert table["species"].isna().all()
