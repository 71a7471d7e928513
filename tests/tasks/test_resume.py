"""A training that was stopped and resumed ends, to the last bit, as one that was not.

All through the project's own configuration, with workers, adapters and dropout.
"""

import csv
import json
from pathlib import Path

import mmlearn.cli.run
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra_zen import store
from omegaconf import open_dict

SEARCH_PATH = "hydra.searchpath=[pkg://projects.bioscan_clip.configs]"
STEPS = 4  # per epoch

# A checkpoint after every step, of which all stay.
ALL_CHECKPOINTS = (
    "trainer.callbacks.recent_checkpoints.train_time_interval.minutes=0",
    "trainer.callbacks.recent_checkpoints.save_top_k=-1",
    "trainer.callbacks.last_checkpoint.filename='epoch-{epoch}'",
    "trainer.callbacks.last_checkpoint.auto_insert_metric_name=false",
    "trainer.callbacks.last_checkpoint.save_top_k=-1",
)
TRAINING = (
    "lora=qv",
    "++task.encoders.rgb.peft_config.lora_dropout=0.1",
    "++task.encoders.dna.peft_config.lora_dropout=0.1",
    "++task.encoders.text.peft_config.lora_dropout=0.1",
    "task.encoders.dna.model_config_kwargs.hidden_dropout_prob=0.1",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "dataloader.train.batch_size=32",
    "dataloader.val.batch_size=50",
    "dataloader.val.num_workers=0",
    "trainer.limit_val_batches=1",
    "trainer.num_sanity_val_steps=0",
    f"trainer.limit_train_batches={STEPS}",
)


@pytest.fixture(scope="module")
def run(sample_file):
    """Run `mmlearn_run` in this process, with an output folder and overrides."""

    def run(folder: Path, *overrides: str) -> Path:
        with initialize_config_module("mmlearn.conf", version_base=None):
            config = compose(
                "base_config",
                overrides=[
                    SEARCH_PATH,
                    "+experiment=bioscan_sample",
                    f"hydra.runtime.output_dir={folder}",
                    *overrides,
                ],
                return_hydra_config=True,
            )
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config.hydra
        mmlearn.cli.run.main.__wrapped__(config)
        return folder

    store.add_to_hydra_store(overwrite_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOSCAN_SAMPLE_HDF5", str(sample_file))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield run
        torch.set_num_threads(threads)
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="module")
def straight(run, tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("straight"), *TRAINING, *ALL_CHECKPOINTS)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_equal(ours, theirs, place: str = "") -> None:
    """Compare tensors to the last bit, wherever they are."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), place
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), place
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{place}.{number}")
    elif isinstance(ours, torch.Tensor):
        assert ours.equal(theirs), place
    else:
        assert ours == theirs, place


def assert_same_training(ours: Path, theirs: Path) -> None:
    ours, theirs = load(ours), load(theirs)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert_equal(ours[part], theirs[part], part)
    loaders = [state["loops"]["fit_loop"]["state_dict"] for state in (ours, theirs)]
    assert_equal(*loaders, "loaders")


def validation_losses(folder: Path) -> dict[str, str]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return {row["epoch"]: row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]}


def test_dropout_and_augmentation_are_on(straight):
    """Else there would be nothing to show."""
    first, second = (load(straight / "checkpoints" / f"step-{step}.ckpt") for step in (1, 2))
    assert first["global_step"] == 1
    trained = [
        name
        for name, weight in first["state_dict"].items()
        if not weight.equal(second["state_dict"][name])
    ]
    assert {name.split(".")[1] for name in trained if "lora" in name} == {"rgb", "dna", "text"}


@pytest.mark.parametrize(
    "checkpoint", ["step-2", "epoch-0", f"step-{STEPS + 2}"], ids=["first", "between", "second"]
)
def test_resumed_training_equals_a_straight_one(run, straight, tmp_path, checkpoint):
    start = straight / "checkpoints" / f"{checkpoint}.ckpt"
    resumed = run(tmp_path, *TRAINING, *ALL_CHECKPOINTS, f"resume_from_checkpoint={start}")
    for name in (f"step-{2 * STEPS - 1}.ckpt", "epoch-1.ckpt", "best.ckpt"):
        assert_same_training(resumed / "checkpoints" / name, straight / "checkpoints" / name)
    expected = validation_losses(straight)
    found = validation_losses(resumed)
    assert found
    assert found.items() <= expected.items()


def test_default_checkpoints(run, tmp_path):
    """The best epoch, the last one, the newest two within epochs, and no litter."""
    minutes = "trainer.callbacks.recent_checkpoints.train_time_interval.minutes=0"
    worst = "trainer.callbacks.model_checkpoint.mode=max"  # so that the last epoch is not saved
    folder = run(tmp_path, *TRAINING, minutes, worst) / "checkpoints"
    assert {path.name: load(path)["global_step"] for path in folder.iterdir()} == {
        "best.ckpt": STEPS,
        "last.ckpt": 2 * STEPS,
        f"step-{2 * STEPS - 2}.ckpt": 2 * STEPS - 2,
        f"step-{2 * STEPS - 1}.ckpt": 2 * STEPS - 1,
    }


@pytest.fixture(scope="module")
def trained_only(run, straight, tmp_path_factory) -> Path:
    """The second half of the straight training, resumed from a full checkpoint."""
    return run(
        tmp_path_factory.mktemp("trained_only"),
        *TRAINING,
        *ALL_CHECKPOINTS,
        "task.save_trainable_only=true",
        f"resume_from_checkpoint={straight / 'checkpoints' / 'epoch-0.ckpt'}",
    )


def test_a_checkpoint_of_adapters_resumes_as_a_full_one(run, straight, trained_only, tmp_path):
    start = trained_only / "checkpoints" / f"step-{STEPS + 2}.ckpt"
    assert start.stat().st_size < 0.5 * (straight / "checkpoints" / start.name).stat().st_size
    resumed = run(tmp_path, *TRAINING, *ALL_CHECKPOINTS, f"resume_from_checkpoint={start}")
    assert_same_training(
        *(folder / "checkpoints" / "epoch-1.ckpt" for folder in (resumed, straight))
    )


def test_a_checkpoint_of_adapters_scores_as_a_full_one(run, straight, trained_only, tmp_path):
    scoring = (
        *TRAINING,
        "job_type=eval",
        "trainer.limit_test_batches=1",
        "task.evaluation_tasks.tax_cls.task.report=off",
    )
    metrics = []
    for folder in (straight, trained_only):
        weights = f"resume_from_checkpoint={folder / 'checkpoints' / 'epoch-1.ckpt'}"
        scores = run(tmp_path / folder.name, *scoring, weights) / "metrics.json"
        metrics.append(json.loads(scores.read_text()))
    assert metrics[0] == metrics[1]
    assert metrics[0]
    # Here, encoders start from random weights instead of pretrained ones.
    with pytest.raises(ValueError, match=r"not those of this model's encoders\.dna, encoders\.rgb"):
        run(tmp_path / "other", *scoring, "seed=1", weights)


def test_a_checkpoint_of_another_experiment_is_refused(run, straight, tmp_path):
    weights = f"resume_from_checkpoint={straight / 'checkpoints' / 'epoch-1.ckpt'}"
    message = r"of another experiment.* lacks encoders\..* and \d+ more; .*`lora` and `modalities`"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, "trainer.accelerator=cpu", weights)  # without adapters
