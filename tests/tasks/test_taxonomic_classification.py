import json

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from mmlearn.datasets.core import Example
from mmlearn.datasets.core.combined_dataset import CombinedDataset
from mmlearn.datasets.core.data_collator import DefaultDataCollator
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import EvaluationSpec
from torch import nn
from torch.utils.data import DataLoader, Dataset

from projects.bioscan_clip.tasks import (
    BioscanPretraining,
    TaxonomicClassification,
    evaluate_embeddings,
)
from projects.bioscan_clip.tasks.evaluated_splits import by_role

ROLES = {
    "keys": ["all_keys"],
    "seen": ["test_seen", "val_seen"],
    "unseen": ["test_unseen", "val_unseen"],
}
SIZES = {"all_keys": 40, "test_seen": 15, "test_unseen": 13}


class Specimens(Dataset):
    """Random photo and barcode vectors, and labels, of one split."""

    def __init__(self, split: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.split = split
        self.rgb, self.dna = rng.normal(size=(2, SIZES[split], 6)).astype(np.float32)
        species = rng.integers(0, 12, SIZES[split])
        self.labels = np.stack([species // 6, species // 4, species // 2, species], axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(
            {
                "example_index": index,
                "rgb": self.rgb[index],
                "dna": self.dna[index],
                "labels": torch.from_numpy(self.labels[index]),
            }
        )


class Identity(nn.Module):
    """Passes its modality through; has a weight so that there is something to train."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return (inputs[self.modality] * self.scale,)


@pytest.fixture
def splits() -> list[Specimens]:
    return [Specimens(split, seed) for seed, split in enumerate(SIZES)]


@pytest.fixture
def expected(splits) -> dict[str, float]:
    keys, seen, unseen = (
        {"rgb": split.rgb, "dna": split.dna, "labels": split.labels} for split in splits
    )
    normalised = [
        {
            n: v if n == "labels" else v / np.linalg.norm(v, axis=1, keepdims=True)
            for n, v in s.items()
        }
        for s in (keys, seen, unseen)
    ]
    return evaluate_embeddings(
        normalised[0], {"seen": normalised[1], "unseen": normalised[2]}, top_k=(1, 3)
    )


def task(folder, **options) -> BioscanPretraining:
    options = {"top_k": [1, 3], "report": "off"} | options
    evaluation = TaxonomicClassification(output_dir=folder, **options)
    return BioscanPretraining(
        encoders={"rgb": Identity("rgb"), "dna": Identity("dna")},
        loss=ContrastiveLoss(),
        evaluation_tasks={"tax_cls": EvaluationSpec(evaluation)},
    )


def loader(splits, batch_size=7, order=None) -> DataLoader:
    return DataLoader(
        CombinedDataset(splits),
        batch_size=batch_size,
        sampler=order,
        collate_fn=DefaultDataCollator(),
    )


def trainer(folder, **changes) -> L.Trainer:
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**(defaults | changes))


@pytest.mark.parametrize("batch_size", [1, 7, 400])
def test_test_results_are_logged_saved_and_returned(tmp_path, splits, expected, batch_size):
    logger = CSVLogger(tmp_path, name="logs", version="")
    returned = trainer(tmp_path, logger=logger).test(task(tmp_path), loader(splits, batch_size))[0]
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert set(saved) == {f"test/{name}" for name in expected}
    logged = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    logged = dict(zip(*(line.split(",") for line in logged), strict=True))
    for name, value in expected.items():
        assert saved[f"test/{name}"] == pytest.approx(value, abs=1e-6)
        assert returned[f"test/{name}"] == pytest.approx(value, abs=1e-6)
        assert float(logged[f"test/{name}"]) == pytest.approx(value, abs=1e-6)


def test_order_and_repetition_of_specimens_do_not_matter(tmp_path, splits, expected):
    """A distributed sampler shuffles, and repeats specimens to fill up."""
    order = np.random.default_rng(0).permutation(sum(SIZES.values())).tolist()
    trainer(tmp_path).test(task(tmp_path), loader(splits, order=order + order[:5]))
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved == pytest.approx({f"test/{name}": value for name, value in expected.items()})


def test_datasets_of_one_role_are_put_together(tmp_path, splits, expected):
    """Keys from two files, say, even if both call their split the same."""
    first, second = Specimens("all_keys", 0), Specimens("all_keys", 0)
    for values, rows in ((first, slice(0, 25)), (second, slice(25, None))):
        values.rgb, values.dna, values.labels = (
            part[rows] for part in (values.rgb, values.dna, values.labels)
        )
    trainer(tmp_path).test(task(tmp_path), loader([first, *splits[1:], second]))
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved == pytest.approx({f"test/{name}": value for name, value in expected.items()})


def test_table_is_printed_and_lightnings_is_not(tmp_path, splits, capsys):
    trainer(tmp_path).test(task(tmp_path), loader(splits))
    printed = capsys.readouterr().out
    assert "40 keys, 15 seen, 13 unseen" in printed
    assert "rgb to dna" in printed
    assert "rgb_to_dna/seen/micro/top1/species" not in printed


def test_validation_is_logged_as_val(tmp_path, splits, expected):
    for split, name in zip(splits[1:], ("val_seen", "val_unseen"), strict=True):
        split.split = name
    returned = trainer(tmp_path).validate(task(tmp_path), loader(splits), verbose=False)[0]
    for name, value in expected.items():
        assert returned[f"val/{name}"] == pytest.approx(value, abs=1e-6)


def test_limited_batches_leave_out_what_cannot_be_computed(tmp_path, splits):
    """The keys come first, so a limit cuts off the queries of unseen species, then all queries."""
    with pytest.warns(UserWarning, match=r"no unseen specimens \(splits test_unseen, val_unseen"):
        trainer(tmp_path, limit_test_batches=7).test(task(tmp_path), loader(splits))
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert {name.split("/")[2] for name in saved} == {"seen"}

    with pytest.warns(UserWarning, match="no seen specimens"):
        returned = trainer(tmp_path, limit_test_batches=2).test(task(tmp_path), loader(splits))[0]
    assert set(returned) == {"test/loss"}


def test_missing_keys_are_named(tmp_path, splits):
    with pytest.warns(UserWarning, match=r"no keys specimens \(splits all_keys"):
        trainer(tmp_path).test(task(tmp_path), loader(splits[1:]))
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("changes", [{"fast_dev_run": True}, {"num_sanity_val_steps": -1}])
def test_sanity_check_and_fast_dev_run_do_not_crash(tmp_path, splits, changes):
    model = task(tmp_path)
    model.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    model.optimizer.keywords, model.optimizer.func = {}, torch.optim.SGD
    training = loader(splits[:1])
    trainer(tmp_path, max_epochs=1, **changes).fit(model, training, loader(splits))


def test_report_of_a_test(tmp_path, splits):
    trainer(tmp_path).test(task(tmp_path, report="full"), loader(splits))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("metrics.json", "metrics.csv", "predictions.parquet", "evaluation.json"),
        *("embeddings.hdf5", "report.html"),
    }
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert about["splits"] == {
        "keys": {"all_keys": 40},
        "seen": {"test_seen": 15},
        "unseen": {"test_unseen": 13},
    }
    table = pd.read_csv(tmp_path / "metrics.csv")
    saved = json.loads((tmp_path / "metrics.json").read_text())
    named = {
        f"test/{row.query}_to_{row.key}/{row.split}/{row.average}/top{row.k}/{row.level}": row.value
        for row in table.itertuples()
    }
    assert named == pytest.approx(saved)


def test_off_in_yaml_is_false_and_other_words_are_refused():
    assert TaxonomicClassification(report=False).report["test"] == "off"
    with pytest.raises(ValueError, match="off, light or full, but not 'some'"):
        TaxonomicClassification(report="some")


def test_validation_splits_settle_thresholds_of_a_test(splits):
    """A second split of a role is for tuning, and a split that is there twice counts once."""
    seen, twin, tuning = (Specimens("test_seen", seed) for seed in range(3))
    seen.path = twin.path = tuning.path = "file.hdf5"
    tuning.split = "val_seen"
    roles = by_role([(dataset, None) for dataset in (tuning, seen, twin)], ROLES)
    assert {role: [dataset for dataset, _ in found] for role, found in roles.items()} == {
        "seen": [seen],
        "tuning_seen": [tuning],
    }
