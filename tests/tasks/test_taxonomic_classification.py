import json

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from mmlearn.datasets.core import Example
from mmlearn.datasets.core.combined_dataset import CombinedDataset
from mmlearn.datasets.core.data_collator import DefaultDataCollator
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import EvaluationSpec
from torch import nn
from torch.utils.data import DataLoader, Dataset

from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.tasks import (
    BioscanPretraining,
    TaxonomicClassification,
    evaluate_embeddings,
    taxonomic_classification,
)

HEADLINE = [
    f"{pair}/{split}/{average}/top1/{rank}"
    for pair in ("rgb_to_dna", "rgb_to_rgb", "dna_to_dna", "averaged_to_averaged")
    for split in ("seen", "unseen", "harmonic")
    for average in ("micro", "macro")
    for rank in ("order", "family", "genus", "species")
]
SIZES = {"all_keys": 40, "test_seen": 15, "test_unseen": 13}


class Specimens(Dataset):
    """Random photo and barcode vectors, and labels, of one split."""

    has_barcodes = has_photos = True

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

    def read_barcodes(self, rows, corruption: str) -> torch.Tensor:
        return torch.from_numpy(self.dna[rows] + 0.02 * len(corruption) * rows[:, None])


class Identity(nn.Module):
    """Passes its modality through; has a weight so that there is something to train."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return (inputs[self.modality] * self.scale,)


class Flattened(nn.Module):
    """Takes eight numbers, of which turns and flips make others, of each photo."""

    def forward(self, encoded):
        return (encoded[0].flatten(1)[:, [0, 1, 2, 5, 16, 19]],)


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
    for name in HEADLINE:  # what papers report; all numbers would be a column of the log each
        assert returned[f"test/{name}"] == pytest.approx(expected[name], abs=1e-6)
        assert float(logged[f"test/{name}"]) == pytest.approx(expected[name], abs=1e-6)
    assert set(returned) == {"test/loss"} | {f"test/{name}" for name in HEADLINE}


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
    for name in HEADLINE:
        assert returned[f"val/{name}"] == pytest.approx(expected[name], abs=1e-6)


def test_what_a_callback_monitors_is_logged_too(tmp_path, splits, expected):
    name = "text_to_text/seen/micro/top1/order", "averaged_to_rgb/unseen/mistake/top1/mean"
    callbacks = [ModelCheckpoint(monitor=f"test/{one}") for one in name]
    run = trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True)
    returned = run.test(task(tmp_path), loader(splits))[0]
    assert returned[f"test/{name[1]}"] == pytest.approx(expected[name[1]], abs=1e-6)
    assert f"test/{name[0]}" not in returned


def test_limited_batches_leave_out_what_cannot_be_computed(tmp_path, splits):
    """The keys come first, so a limit cuts off the queries of unseen species, then all queries."""
    with pytest.warns(UserWarning, match=r"no unseen specimens \(splits test_unseen, val_unseen"):
        trainer(tmp_path, limit_test_batches=7).test(task(tmp_path), loader(splits))
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert {name.split("/")[2] for name in saved} == {"seen"}

    with pytest.warns(UserWarning, match="no seen specimens"):
        returned = trainer(tmp_path, limit_test_batches=2).test(task(tmp_path), loader(splits))[0]
    assert set(returned) == {"test/loss"}


def test_data_without_keys_or_queries_end_before_they_are_embedded(tmp_path, splits):
    for held, message in (
        (splits[1:], "no keys: none of the splits all_keys is among the data, which are test_seen"),
        (splits[:1], "no queries: none of the splits test_seen, val_seen, test_unseen, val_unseen"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path).test(task(tmp_path), loader(held))
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


def test_damaged_barcodes_are_scored_against_whole_ones(tmp_path, splits):
    options = {"corruption": ["bases_5", "shifted"], "top_k": [1]}
    trainer(tmp_path).test(task(tmp_path, **options), loader(splits))
    saved = json.loads((tmp_path / "metrics.json").read_text())
    keys = {"dna": splits[0].dna, "labels": splits[0].labels}
    for name in options["corruption"]:
        queries = {
            role: {
                "dna": split.read_barcodes(np.arange(len(split)), name),
                "labels": split.labels,
            }
            for role, split in zip(("seen", "unseen"), splits[1:], strict=True)
        }
        for number, value in evaluate_embeddings(keys, queries, top_k=[1]).items():
            if "dna_to_dna" in number and "mistake" not in number:
                damaged = number.replace("dna_to", f"dna_{name}_to")
                assert saved[f"test/{damaged}"] == pytest.approx(value, abs=1e-6)


def test_query_barcodes_are_corrected_by_those_of_keys(tmp_path, splits, monkeypatch):
    """Queries are keys' barcodes with one false base."""
    tokens = KmerTokenizer(k=2, max_length=22)(["ACGTACGTACGTACGTACGTAC"] * SIZES["all_keys"])
    wrong = tokens.clone()
    wrong[:, 2] += 1  # CG becomes CT
    for split in splits:
        split.dna = (tokens if split is splits[0] else wrong)[: len(split)].float().numpy()
        split.tokenizer = KmerTokenizer(k=2)
        split.read_barcodes = lambda rows, corruption, split=split: torch.from_numpy(
            split.dna[rows]
        ).long()
    for corrected in (False, True):
        found = {}
        monkeypatch.setattr(
            taxonomic_classification,
            "evaluate_and_report",
            lambda sets, *_, found=found, about, **__: found.update(sets, about=about) or {},
        )
        model = task(tmp_path, report="light", correct_barcodes=corrected)
        trainer(tmp_path).test(model, loader(splits))
        assert found["about"]["correct_barcodes"] == corrected
        for role in ("seen", "unseen"):
            expected = found["keys"].dna[: len(found[role])]
            assert torch.allclose(found[role].dna, expected) == corrected


def test_features_cannot_be_damaged_or_turned(tmp_path, splits):
    splits[1].has_barcodes = False
    with pytest.raises(ValueError, match="Barcodes cannot be damaged"):
        trainer(tmp_path).test(task(tmp_path, corruption="all"), loader(splits))
    splits[1].has_photos = False
    with pytest.raises(ValueError, match="There are no photos to turn"):
        trainer(tmp_path).test(task(tmp_path, test_time_views=True), loader(splits))


def test_photos_are_known_however_they_lie(tmp_path, splits):
    """Every query is a key's photo, turned or flipped."""
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(SIZES["all_keys"], 3, 4, 4)).astype(np.float32)
    ways = (lambda p: np.rot90(p, 1, (1, 2)), lambda p: p[:, :, ::-1], lambda p: p.swapaxes(1, 2))
    splits[0].rgb = keys
    for split in splits[1:]:
        split.labels = splits[0].labels[: len(split)]
        split.rgb = [np.ascontiguousarray(ways[i % 3](keys[i])) for i in range(len(split))]
    accuracies = []
    for views in (False, True):
        classifier = task(tmp_path, test_time_views=views)
        classifier.encoders["rgb"] = nn.Sequential(Identity("rgb"), Flattened())
        trainer(tmp_path).test(classifier, loader(splits))
        saved = json.loads((tmp_path / "metrics.json").read_text())
        accuracies.append(saved["test/rgb_to_rgb/seen/micro/top1/species"])
    assert accuracies[0] < 0.6
    assert accuracies[1] == 1


def test_options_are_checked_when_the_task_is_built(tmp_path):
    assert TaxonomicClassification(report=False).report["test"] == "off"
    assert TaxonomicClassification(keys="seen_keys").splits["keys"] == ("seen_keys",)
    for options, message in (
        ({"report": "some"}, "off, light or full, but not 'some'"),
        ({"top_k": []}, "`top_k` must hold whole numbers from 1 on"),
        ({"top_k": [1, 0]}, "`top_k` must hold whole numbers from 1 on"),
        ({"top_k": ["1"]}, "`top_k` must hold whole numbers from 1 on"),
        ({"search": "fast"}, "`search` must be one of 'exact', 'approximate', but is 'fast'"),
        ({"seen": []}, "`seen` must name one split or more"),
        ({"keys": [None]}, "`keys` must name one split or more"),
        ({"restrict_to": {"tribe": "Syrphini"}}, "'tribe' is not a rank"),
        ({"corruption": "bases"}, "`corruption` must be all, or some of bases_1"),
    ):
        with pytest.raises(ValueError, match=message):
            TaxonomicClassification(**options)


@pytest.mark.parametrize("told", [{}, {"bioscan_clip": {"experiment": "a", "seed": 3}}])
def test_experiment_and_seed_are_those_of_the_training(tmp_path, splits, told):
    """As the checkpoint says, or else the config of the run whose checkpoint it is."""
    run = tmp_path / "run"
    for folder in (run / ".hydra", run / "checkpoints"):
        folder.mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("experiment_name: b\nseed: 4\n")
    model = task(tmp_path, report="light")
    path = run / "checkpoints" / "best.ckpt"
    values = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.5.0"}
    torch.save({**values, "epoch": 0, "global_step": 0, **told}, path)
    L.seed_everything(17)
    trainer(tmp_path).test(model, loader(splits), ckpt_path=path)
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert about["checkpoint"] == str(path)
    assert (about["experiment"], about["seed"]) == (("a", 3) if told else ("b", 4))


@pytest.mark.parametrize("untrained", [False, True])
def test_without_a_checkpoint_there_is_no_training(tmp_path, splits, untrained):
    L.seed_everything(17)
    model = task(tmp_path, report="light")
    model.evaluate_untrained = untrained
    trainer(tmp_path).test(model, loader(splits))
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert (about["checkpoint"], about["experiment"], about["seed"]) == (None, None, None)
    assert about["untrained"] is untrained
    assert (about["correct_barcodes"], about["test_time_views"]) == (False, False)
