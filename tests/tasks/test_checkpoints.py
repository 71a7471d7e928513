"""Files are torn as they are by real kills: by cutting them, and by limits on a process."""

import logging
import os
import resource
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from projects.bioscan_clip.tasks.checkpoints import (
    AtomicCheckpointIO,
    CheckpointWithinEpochs,
    newest_checkpoint,
)
from tests.trainers import QUIET

WEIGHTS = 50_000


def checkpoint(seed: int) -> dict:
    weight = torch.randn(WEIGHTS, generator=torch.manual_seed(seed))
    return {"state_dict": {"weight": weight}, "pytorch-lightning_version": L.__version__}


def write(path: Path, seed: int = 0, minute: int = 0) -> Path:
    torch.save(checkpoint(seed), path)
    os.utime(path, (60 * minute, 60 * minute))
    return path


def cut(path: Path, size: int) -> Path:
    time = path.stat().st_mtime
    os.truncate(path, size)
    os.utime(path, (time, time))
    return path


def test_newest_is_found(tmp_path):
    assert newest_checkpoint(tmp_path / "none") is None
    assert newest_checkpoint(tmp_path) is None
    write(tmp_path / "best.ckpt", minute=2)
    newest = write(tmp_path / "last.ckpt", minute=3)
    write(tmp_path / "step-7.ckpt", minute=1)
    write(tmp_path / "unfinished.part", minute=4)
    assert newest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("remains", [0.0, 0.001, 0.3, 0.99, 0.99999])
def test_torn_ones_are_passed_over_and_named(tmp_path, caplog, remains):
    before = write(tmp_path / "step-4.ckpt", minute=1)
    torn = write(tmp_path / "last.ckpt", minute=2)
    cut(torn, int(remains * torn.stat().st_size))
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path) == before
    assert f"{torn} is damaged" in caplog.text
    cut(before, 100)
    assert newest_checkpoint(tmp_path) is None


def test_every_cut_and_every_changed_weight_is_noticed(tmp_path):
    path = write(tmp_path / "last.ckpt")
    whole = path.read_bytes()
    weights = checkpoint(0)["state_dict"]["weight"].numpy().tobytes()
    start = whole.index(weights)
    rng = np.random.default_rng(0)
    for size in [1, len(whole) - 1, *rng.integers(len(whole), size=50)]:
        path.write_bytes(whole[:size])
        assert newest_checkpoint(tmp_path) is None, size
    for position in rng.integers(start, start + len(weights), size=20):
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        assert newest_checkpoint(tmp_path) is None, position
    path.write_bytes(whole)
    assert newest_checkpoint(tmp_path) == path


def test_no_change_of_the_directory_is_an_error(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"weight": torch.zeros(3)}, path)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for position in range(directory, len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x09
        path.write_bytes(changed)
        assert newest_checkpoint(tmp_path) in (path, None)


def test_a_saved_checkpoint_is_read_as_it_was(tmp_path):
    path = tmp_path / "new" / "folder" / "last.ckpt"
    for seed in (1, 2):
        AtomicCheckpointIO().save_checkpoint(checkpoint(seed), path)
        loaded = AtomicCheckpointIO().load_checkpoint(path, weights_only=True)
        assert loaded["state_dict"]["weight"].equal(checkpoint(seed)["state_dict"]["weight"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


class Code:
    def __reduce__(self):
        return (os.mkdir, ("code-ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"named\.ckpt is damaged: it is empty"),
        ("torn", r"named\.ckpt is damaged: it is cut off or unreadable"),
        ("flipped", r"named\.ckpt is damaged: \S+ is not as it was written"),
        ({"state_dict": Code()}, r"named\.ckpt cannot be read .* Python objects"),
        (torch.zeros(3), r"named\.ckpt is no checkpoint of a Lightning training"),
        ({"image_encoder.weight": torch.zeros(3)}, r"named\.ckpt is .*weights alone, as CLIBD's"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused_by_its_name(
    tmp_path, monkeypatch, content, message
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "named.ckpt"
    if content is None:
        path.touch()
    elif isinstance(content, str):
        whole = bytearray(write(path).read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole if content == "flipped" else whole[:-9])
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert [file.name for file in tmp_path.iterdir()] == ["named.ckpt"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "missing.ckpt")


def killed_by(action: Callable[[], object]) -> int:
    """Run an action in a process of its own; return the signal that ended it, 0 for none."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(process, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.mark.parametrize("bytes_written", [0, 1000, WEIGHTS, 4 * WEIGHTS])
def test_a_kill_while_writing_leaves_the_former_one(tmp_path, bytes_written):
    """The kernel ends the process when it writes beyond a limit."""
    path = write(tmp_path / "last.ckpt", seed=1)
    former = path.read_bytes()

    def die_while_saving() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_written, bytes_written))
        AtomicCheckpointIO().save_checkpoint(checkpoint(2), path)

    assert killed_by(die_while_saving) == signal.SIGXFSZ
    assert path.read_bytes() == former
    assert newest_checkpoint(tmp_path) == path
    AtomicCheckpointIO().save_checkpoint(checkpoint(3), path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]  # nothing stays of the kill


def test_a_kill_between_writing_and_renaming_leaves_the_former_one(tmp_path, monkeypatch):
    path = write(tmp_path / "last.ckpt", seed=1)
    former = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    save = AtomicCheckpointIO().save_checkpoint
    assert killed_by(lambda: save(checkpoint(2), path)) == signal.SIGKILL
    assert path.read_bytes() == former
    assert newest_checkpoint(tmp_path) == path


@pytest.mark.parametrize("limit", [1000, 4 * WEIGHTS])
def test_a_full_disk_is_said_and_leaves_the_former_one(tmp_path, limit):
    path = write(tmp_path / "last.ckpt", seed=1)
    former = path.read_bytes()

    def fail_to_save() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores its signal
        with pytest.raises(OSError, match=r"last\.ckpt could not be written .*disk is full"):
            AtomicCheckpointIO().save_checkpoint(checkpoint(2), path)

    assert killed_by(fail_to_save) == 0
    assert path.read_bytes() == former
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_checkpoints_within_epochs_wait_for_a_step_and_leave_an_epochs_last_one(tmp_path):
    callback = CheckpointWithinEpochs(
        tmp_path,
        filename="step-{step}",
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=-1,
        train_time_interval=timedelta(0),
    )
    trainer = L.Trainer(
        **QUIET,
        accumulate_grad_batches=2,
        callbacks=[callback],
        max_epochs=2,
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(Model(), DataLoader(torch.ones(7, 1)))
    # Of four steps, the last has one batch only.
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step-{step}.ckpt" for step in (1, 2, 3, 5, 6, 7)
    }
    for path in tmp_path.iterdir():
        loops = torch.load(path, weights_only=True)["loops"]["fit_loop"]
        assert loops["epoch_loop.batch_progress"]["current"]["ready"] % 2 == 0
