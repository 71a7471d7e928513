from functools import partial

import h5py
import hydra
import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from mmlearn.datasets.core import CombinedDataset, Modalities
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks import ContrastivePretraining
from mmlearn.tasks.contrastive_pretraining import EvaluationSpec
from mmlearn.tasks.hooks import EvaluationHooks
from torch import nn
from torch.utils.data import DataLoader

from projects.bioscan_clip.datasets import BIOSCANInsectDataset, KmerTokenizer, SpecimenLoader
from projects.bioscan_clip.encoders import BERT_SAMPLE, BarcodeBERT, TextEncoder
from projects.bioscan_clip.tasks import BioscanPretraining, LabelAwareContrastiveLoss
from projects.bioscan_clip.tasks.checkpoints import AtomicCheckpointIO

MODALITIES = ("rgb", "dna", "text")
BATCH, DIM, BATCHES = 4, 8, 5


class Encoder(nn.Module):
    """A linear encoder that counts how often it runs."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.linear = nn.Linear(DIM, DIM)
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        self.inputs = inputs
        return (self.linear(inputs[self.modality]),)


class TwoForwards(EvaluationHooks):
    """An evaluation task that encodes as mmlearn's two ways do."""

    def evaluation_step(self, pl_module, batch, batch_idx):
        self.outputs = pl_module(batch)
        self.raw = pl_module.encode(batch, Modalities.get_modality("dna"), normalize=False)


def arguments(**changes):
    torch.manual_seed(0)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=None)
    defaults = {
        "encoders": {name: Encoder(name) for name in MODALITIES},
        "heads": {"text": nn.Sequential(nn.Linear(DIM, DIM))},
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        "lr_scheduler": {"scheduler": schedule, "extras": {"interval": "step"}},
        "loss": ContrastiveLoss(),
    }
    return defaults | changes


def batch(number: int = 0) -> dict:
    torch.manual_seed(number)
    ids = torch.stack([torch.zeros(BATCH), torch.arange(BATCH)], dim=1)
    return {
        **{name: torch.randn(BATCH, DIM) for name in MODALITIES},
        "example_ids": dict.fromkeys(MODALITIES, ids),
        "labels": torch.tensor([[0, 0, 0, species] for species in (1, 1, 2, 3)]),
        "bin": torch.tensor([1, 1, 2, 3]),
        "bad_image": torch.tensor([0, 1, 0, 0]),
    }


def loader() -> DataLoader:
    return DataLoader([batch(number) for number in range(BATCHES)], batch_size=None)


def trainer(folder, **changes) -> L.Trainer:
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "plugins": [AtomicCheckpointIO()],
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return L.Trainer(**(defaults | changes))


def total_steps(task: BioscanPretraining) -> int:
    return task.lr_schedulers().total_steps


def test_steps_come_from_the_trainer(tmp_path):
    task = BioscanPretraining(**arguments())
    trainer(tmp_path).fit(task, loader())
    assert total_steps(task) == 2 * BATCHES


def test_steps_follow_accumulation_and_limits(tmp_path):
    task = BioscanPretraining(**arguments())
    trainer(tmp_path, accumulate_grad_batches=2, limit_train_batches=3).fit(task, loader())
    assert total_steps(task) == 2 * 2


def test_each_training_has_its_own_steps(tmp_path):
    task = BioscanPretraining(**arguments())
    for epochs in (2, 3):
        trainer(tmp_path, max_epochs=epochs).fit(task, loader())
        assert total_steps(task) == epochs * BATCHES


def test_steps_that_are_set_stay(tmp_path):
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=77)
    task = BioscanPretraining(**arguments(lr_scheduler=schedule))
    trainer(tmp_path).fit(task, loader())
    assert total_steps(task) == 77


def test_other_schedules_are_left_alone(tmp_path):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=3)
    task = BioscanPretraining(**arguments(lr_scheduler=schedule))
    trainer(tmp_path).fit(task, loader())
    assert task.lr_schedulers().step_size == 3


def test_endless_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(BioscanPretraining(**arguments()), loader())


def test_evaluation_encodes_each_batch_once(tmp_path):
    evaluation = TwoForwards()
    task = BioscanPretraining(
        **arguments(
            evaluation_tasks={"one": EvaluationSpec(evaluation), "two": EvaluationSpec(evaluation)}
        )
    )
    trainer(tmp_path).test(task, loader(), verbose=False)
    assert [encoder.calls for encoder in task.encoders.values()] == [BATCHES] * 3
    last = batch(BATCHES - 1)
    with torch.no_grad():
        torch.testing.assert_close(evaluation.outputs, task(last))
        torch.testing.assert_close(evaluation.raw, task.encoders["dna"](last)[0])


@pytest.mark.parametrize("specimens", [8, 12])
def test_an_evaluation_batch_is_copied_once_and_only_where_it_must_be(tmp_path, specimens):
    given = {**{name: torch.randn(specimens, DIM) for name in MODALITIES}, "example_ids": {}}
    task = BioscanPretraining(**arguments(compute_test_loss=False))
    with torch.no_grad(), task._encoding_once(given):
        embeddings = task(given)
    inputs = [encoder.inputs for encoder in task.encoders.values()]
    assert all(one is inputs[0] for one in inputs)
    assert (inputs[0] is given) == (specimens == 8)
    assert len(inputs[0]["rgb"]) % 8 == 0
    assert len(embeddings["rgb_embedding"]) == specimens


def test_a_batch_outside_evaluation_is_always_encoded():
    task, same = BioscanPretraining(**arguments()), batch()
    task(same)
    task(same)
    assert task.encoders["rgb"].calls == 2


def test_none_leaves_a_modality_out():
    given = arguments()
    given["encoders"]["text"] = given["heads"]["text"] = None
    task = BioscanPretraining(**given)
    assert set(task(batch())) == {"rgb_embedding", "dna_embedding"}
    assert [pair.modalities for pair in task.modality_loss_pairs] == [("rgb", "dna")]


def test_state_dict_is_mmlearns():
    ours = BioscanPretraining(**arguments())
    theirs = ContrastivePretraining(**arguments())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)


def by_hydra(target: str, **options):
    """Return a partial as mmlearn gets it: of a class of Hydra's own."""
    return hydra.utils.instantiate({"_target_": target, "_partial_": True, **options})


@pytest.mark.parametrize("task_class", [BioscanPretraining, ContrastivePretraining])
def test_checkpoints_load(tmp_path, task_class):
    """Ours, and mmlearn's, whose hyperparameters hold partials of optimizer and schedule."""
    schedule = by_hydra("torch.optim.lr_scheduler.OneCycleLR", max_lr=1e-3, total_steps=10)
    given = arguments(
        optimizer=by_hydra("torch.optim.AdamW", lr=1e-3),
        lr_scheduler={"scheduler": schedule, "extras": {"interval": "step"}},
    )
    path = tmp_path / "last.ckpt"
    trained = task_class(**given)
    first = trainer(tmp_path)
    first.fit(trained, loader())
    first.save_checkpoint(path)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert any("_DeferredTarget" in name for name in unsafe) == (task_class != BioscanPretraining)

    resumed = BioscanPretraining(**arguments())
    second = trainer(tmp_path, max_epochs=3)
    second.test(resumed, loader(), ckpt_path=path, verbose=False)
    assert all(resumed.state_dict()[k].equal(v) for k, v in trained.state_dict().items())


def test_training_is_not_resumed_where_encoders_are_in_another_order(tmp_path):
    """As in mmlearn's project; Adam's state would go to the wrong weights."""
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=10)
    given = arguments(lr_scheduler={"scheduler": schedule, "extras": {"interval": "step"}})
    given["encoders"] = dict(reversed(given["encoders"].items()))
    first = trainer(tmp_path)
    first.fit(ContrastivePretraining(**given), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"come in another order .* scored with job_type=eval"):
        trainer(tmp_path).fit(
            BioscanPretraining(**arguments()), loader(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_resuming_beyond_the_schedule_is_refused(tmp_path):
    first = trainer(tmp_path, max_epochs=1)
    first.fit(BioscanPretraining(**arguments()), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"ends after 5 steps, but this training takes 15"):
        trainer(tmp_path, max_epochs=3).fit(
            BioscanPretraining(**arguments()), loader(), ckpt_path=tmp_path / "last.ckpt"
        )


def test_checkpoints_hold_plain_values_only(tmp_path):
    fit = trainer(tmp_path)
    fit.fit(BioscanPretraining(**arguments()), loader())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    hyperparameters = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert "AdamW" in hyperparameters["optimizer"]


def test_bad_images_are_counted(tmp_path):
    fit = trainer(tmp_path)
    fit.fit(BioscanPretraining(**arguments()), loader())
    assert fit.callback_metrics["train/bad_images"] == BATCHES


@pytest.fixture(scope="module")
def real_encoders():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = TextEncoder(BERT_SAMPLE, pretrained=False)
    dna = BarcodeBERT(1027, 128, model_config_kwargs=sizes)
    return {"dna": dna, "text": text}


@pytest.mark.parametrize(
    ("k", "token", "message"),
    [
        (5, 2000, "split train_seen, row 7: the encoder of text knows 2000 tokens, .* token 2000"),
        (5, -1, "split train_seen, row 7: .* token -1. .*`language_tokens_input_ids`"),
        (
            6,
            5,
            "train_seen, row .*: the encoder of dna knows 1027 .* Set the tokenizer's `k`",
        ),
    ],
)
def test_unknown_tokens_are_named(sample_file, tmp_path, real_encoders, k, token, message):
    path = tmp_path / "tokens.hdf5"
    path.write_bytes(sample_file.read_bytes())
    with h5py.File(path, "r+") as file:
        file["train_seen"]["language_tokens_input_ids"][7, 3] = token
    dataset = BIOSCANInsectDataset(path, "train_seen", image_size=16, tokenizer=KmerTokenizer(k))
    loader = SpecimenLoader(CombinedDataset([dataset]), 16)
    task = BioscanPretraining(**arguments(encoders=real_encoders, heads=None))
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, max_steps=1).fit(task, loader)


def test_label_aware_loss_gets_its_labels(tmp_path):
    loss = LabelAwareContrastiveLoss("species")
    task = BioscanPretraining(**arguments(loss=loss))
    fit = trainer(tmp_path, limit_test_batches=1)
    logged = fit.test(task, loader(), verbose=False)[0]["test/loss"]
    with torch.no_grad():
        species = {"labels": torch.tensor([1, 1, 2, 3])}
        scale = task.log_logit_scale.exp()
        expected = loss(task(batch()), species, scale, task.modality_loss_pairs)
    assert logged == pytest.approx(float(expected))


class Diverging(Encoder):
    lost = (8,)

    def forward(self, inputs):
        return (super().forward(inputs)[0] * (float("nan") if self.calls in self.lost else 1),)


@pytest.mark.parametrize("steps", [1, 100], ids=["at a logged step", "before a checkpoint"])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, steps):
    """The eighth step is the third of the second epoch; `last.ckpt` is of the first."""
    given = arguments(optimizer=partial(torch.optim.AdamW, lr=1e-3), lr_scheduler=None)
    given["encoders"]["rgb"] = Diverging("rgb")
    fit = trainer(tmp_path, log_every_n_steps=steps)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 8, at .* rate of 1\.00e-03"):
        fit.fit(BioscanPretraining(**given), loader())
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert torch.load(saved, weights_only=True)["global_step"] == BATCHES


def test_a_loss_that_is_not_finite_is_found_before_validation(tmp_path, monkeypatch):
    given = arguments(lr_scheduler=None)
    given["encoders"]["rgb"] = Diverging("rgb")
    task = BioscanPretraining(**given)
    validated = []
    monkeypatch.setattr(task, "validation_step", lambda *_: validated.append(task.current_epoch))
    with pytest.raises(FloatingPointError, match="loss is nan at step 8,"):
        trainer(tmp_path).fit(task, loader(), loader())
    assert set(validated) == {0}


class Overflowing(Diverging):
    """As fp16 may: in ten batches in a row the loss is not finite, then in all."""

    lost = (*range(4, 14), *range(20, 99))


def test_fp16_skips_steps_whose_loss_is_not_finite_but_not_for_ever(tmp_path):
    given = arguments(lr_scheduler=None)
    given["encoders"]["rgb"] = Overflowing("rgb")
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fit = trainer(
        tmp_path, log_every_n_steps=3, max_epochs=9, plugins=[AtomicCheckpointIO(), scaled]
    )
    task = BioscanPretraining(**given)
    with pytest.raises(FloatingPointError, match="loss is nan at step 30,"):
        fit.fit(task, loader())
    assert all(weight.isfinite().all() for weight in task.state_dict().values())
