"""Numbers are read back as they were, and a file is there whole or not at all."""

import json

import numpy as np
import pandas as pd
import pytest

from projects.bioscan_clip.reports.metrics_files import (
    save_about,
    save_metrics,
    save_table,
    write_whole,
)


def test_numbers_keep_every_digit(tmp_path):
    numbers = {"test/b": 1 / 3, "test/a": 0.1 + 0.2}
    saved = save_metrics(numbers, tmp_path / "new" / "folder")
    assert saved == tmp_path / "new" / "folder" / "metrics.json"
    assert json.loads(saved.read_text()) == numbers
    assert list(json.loads(saved.read_text())) == ["test/a", "test/b"]


def test_table_of_an_evaluation(tmp_path, evaluation):
    read = pd.read_csv(save_table(evaluation.metrics, tmp_path))
    names = ["query", "key", "split", "average", "k", "level", "value", "low", "high", "n"]
    assert read.columns.tolist() == names
    assert len(read) == len(evaluation.metrics) == len(evaluation.numbers())
    for name in names:
        assert read[name].tolist() == pytest.approx(evaluation.metrics[name].tolist(), nan_ok=True)


def test_what_was_evaluated(tmp_path, about):
    assert json.loads(save_about(about, tmp_path).read_text()) == about
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_file_is_not_torn(tmp_path):
    path = tmp_path / "numbers.txt"
    write_whole(path, lambda unfinished: unfinished.write_text("old"))

    def fail(unfinished):
        unfinished.write_text("ne")
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    write_whole(path, lambda unfinished: np.savetxt(unfinished, [1.0]))
    assert [found.name for found in tmp_path.iterdir()] == ["numbers.txt"]
