"""Trainings that are told to stop; tests/cluster does the same with a real SLURM."""

import os
import signal
from itertools import islice

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, Dataset

from projects.bioscan_clip.tasks.loggers import ContinuedCSVLogger
from projects.bioscan_clip.tasks.resuming import ResumingTrainer, SaveWhenAsked

BATCHES, EPOCHS = 4, 3


class Inputs(Dataset):
    """Seeded noise."""

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        return torch.randn(32, generator=torch.Generator().manual_seed(index))


class Loader(DataLoader):
    """Begins where it was, as SpecimenLoader does."""

    taken = first = 0

    def __iter__(self):
        self.taken, self.first = self.first, 0
        for batch in islice(super().__iter__(), self.taken, None):
            self.taken += 1
            yield batch

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.first = state["taken"] % BATCHES


class SignalledInputs(Inputs):
    def __getitem__(self, index):
        for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), signum)
        return super().__getitem__(index)


class SignalAt(Callback):
    """Sends a signal to this process in a step, counted from 1, or in a validation."""

    def __init__(self, signum, step=None, validation=None):
        self.signum, self.step, self.validation = signum, step, validation

    def on_train_batch_start(self, trainer, *arguments):
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.signum)

    def on_validation_batch_start(self, trainer, *arguments):
        if trainer.current_epoch == self.validation:
            os.kill(os.getpid(), self.signum)


class RequeuedError(Exception):
    pass


@pytest.fixture(autouse=True)
def _signals():
    before = {one: signal.getsignal(one) for one in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.fixture
def on_slurm(monkeypatch):
    """Let this process look like the only task of a job that submitit runs."""
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    for name in ("NTASKS", "NTASKS_PER_NODE", "NNODES", "JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "1")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")


@pytest.fixture
def submitit_requeues(on_slurm, tmp_path):
    """Return the steps of ``last.ckpt``, as they are when submitit's handler is called."""
    found = []

    def handler(signum, frame):
        found.append(saved_step(tmp_path))
        raise RequeuedError

    signal.signal(signal.SIGUSR2, handler)
    return found


def trainer(folder, *callbacks, **options) -> ResumingTrainer:
    options = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, "logger": False, **options}
    return ResumingTrainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            *callbacks,
            SaveWhenAsked(),
            ModelCheckpoint(folder, filename="last", enable_version_counter=False),
        ],
        **options,
    )


def fit(folder, *callbacks, ckpt_path=None, **options) -> dict[str, torch.Tensor]:
    """Train and return the weights."""
    seed_everything(0)
    model = BoringModel()
    one = trainer(folder, *callbacks, **options)
    one.fit(model, Loader(Inputs()), Loader(Inputs()), ckpt_path=ckpt_path)
    assert one.global_step == BATCHES * EPOCHS / one.accumulate_grad_batches
    return model.state_dict()


def saved_step(folder) -> int | None:
    path = folder / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_own_checkpoint_goes_before_the_given_one(tmp_path):
    straight = fit(tmp_path / "straight")
    other = tmp_path / "other"
    trainer(other, max_epochs=1).fit(BoringModel(), Loader(Inputs()), Loader(Inputs()))
    given = other / "last.ckpt"
    begun_there = fit(tmp_path / "own", ckpt_path=given)
    assert not equal(begun_there, straight)  # another beginning
    assert equal(fit(tmp_path / "straight", ckpt_path=given), straight)  # nothing left to do


@pytest.mark.parametrize("step", [2, BATCHES + 1])
def test_sigterm_ends_a_training_that_can_be_resumed(tmp_path, step):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, SignalAt(signal.SIGTERM, step))
    assert ended.value.code == 128 + signal.SIGTERM
    assert saved_step(tmp_path) == step
    assert equal(fit(tmp_path), fit(tmp_path / "straight"))


def test_sigterm_on_slurm_saves_and_goes_on(tmp_path, on_slurm, monkeypatch):
    saved = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, *arguments):
            saved.append(saved_step(tmp_path))

    fit(tmp_path, Look(), SignalAt(signal.SIGTERM, step=2))
    assert saved[:3] == [None, None, 2]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_submitit_requeues_after_the_checkpoint(tmp_path, submitit_requeues, signum):
    with pytest.raises(RequeuedError):
        fit(tmp_path, SignalAt(signum, step=3))
    assert submitit_requeues == [3]
    assert equal(fit(tmp_path), fit(tmp_path / "straight"))


def test_the_last_step_is_logged(tmp_path, submitit_requeues):
    class Log(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *arguments):
            pl_module.log("loss", outputs["loss"])

    def options(folder):
        return {"logger": ContinuedCSVLogger(folder, "logs"), "log_every_n_steps": 1}

    with pytest.raises(RequeuedError):
        fit(tmp_path, Log(), SignalAt(signal.SIGUSR2, 3), **options(tmp_path))
    fit(tmp_path, Log(), **options(tmp_path))
    fit(tmp_path / "straight", Log(), **options(tmp_path / "straight"))
    tables = [folder / "logs" / "metrics.csv" for folder in (tmp_path, tmp_path / "straight")]
    stopped, straight = (path.read_text().splitlines() for path in tables)
    assert len(straight) == 1 + BATCHES * EPOCHS
    assert stopped == straight


@pytest.mark.parametrize(
    ("accumulated", "asked", "saved"),
    [(1, BATCHES, BATCHES), (2, 1, 1)],
    ids=["last step of an epoch", "gradients are being accumulated"],
)
def test_saves_only_what_resumes_exactly(tmp_path, submitit_requeues, accumulated, asked, saved):
    """After an epoch's last step, validation is due: the job is requeued there."""
    options = {"accumulate_grad_batches": accumulated}
    with pytest.raises(RequeuedError):
        fit(tmp_path, SignalAt(signal.SIGUSR2, asked), **options)
    assert submitit_requeues == [None if asked == BATCHES else saved]
    assert equal(fit(tmp_path, **options), fit(tmp_path / "straight", **options))


def test_validation_is_not_waited_for(tmp_path, submitit_requeues):
    with pytest.raises(RequeuedError):
        fit(tmp_path, SignalAt(signal.SIGUSR2, validation=1))
    assert submitit_requeues == [BATCHES]


def test_workers_survive_the_signals_of_slurm(tmp_path):
    loader = DataLoader(SignalledInputs(), 1, num_workers=1)
    one = trainer(tmp_path, limit_val_batches=0, max_epochs=1)
    one.fit(BoringModel(), loader)
    assert one.global_step == BATCHES


def test_lightning_has_the_method_that_is_replaced():
    """It asks all processes for SIGTERM before every step, and waits for the GPU."""
    assert callable(ResumingTrainer(logger=False).fit_loop.epoch_loop._broadcast_sigterm_tensor)
