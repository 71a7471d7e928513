import logging
import re
import sys
import warnings

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from projects.bioscan_clip.tasks import progress
from projects.bioscan_clip.tasks.progress import ProgressLines
from projects.bioscan_clip.tasks.resuming import ResumingTrainer
from tests.trainers import QUIET


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        self.log("train/loss", output["loss"])
        return output

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.tensor(2.5))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0)


def fit(folder, bar=True) -> Trainer:
    trainer = ResumingTrainer(
        **QUIET | {"enable_progress_bar": bar},
        max_epochs=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=[ProgressLines()],
    )
    loader = DataLoader(torch.ones(20, 32), batch_size=4)
    trainer.fit(Model(), loader, loader)
    return trainer


def test_lines_where_there_is_no_terminal(tmp_path, capfd):
    loss = fit(tmp_path).callback_metrics["train/loss"]
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("epoch")]
    step = rf"loss {loss:.4f}, [\d,]+ specimens/s, \d+ s left"
    epoch = rf"train/loss {loss:.4f}, val/loss 2\.5000, \d+ s left"
    expected = [
        *(rf"epoch 1/2, step {number}/5: {step}" for number in (2, 4)),
        rf"epoch 1/2: {epoch}",
        *(rf"epoch 2/2, step {number}/5: {step}" for number in (2, 4)),
        rf"epoch 2/2: {epoch}",
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_long_first_step_is_told(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(progress, "_LONG", 0.0)
    monkeypatch.setattr(Model, "compile_encoders", True, raising=False)
    fit(tmp_path)
    lines = capfd.readouterr().out.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("The first step compiles"))
    assert re.fullmatch(r"first step: \d+ s", lines[begin + 1])
    assert sum(line.startswith("first step") for line in lines) == 1


def test_none_in_a_terminal_or_without_a_progress_bar(tmp_path, capfd, monkeypatch):
    fit(tmp_path, bar=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    fit(tmp_path)
    assert "specimens/s" not in capfd.readouterr().out


def test_a_normal_run_is_quiet(tmp_path, caplog):
    """No warnings, no advertisements, and the configuration is not printed."""
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        trainer = fit(tmp_path, bar=False)
        trainer.print("the whole configuration")
        logging.getLogger("faiss.loader").info("Could not load library with AVX512 support")
    assert not [str(one.message) for one in caught if "LeafSpec" in str(one.message)]
    assert "litlogger" not in caplog.text
    assert "litmodels" not in caplog.text
    assert "configuration" not in caplog.text
    assert "AVX512" not in caplog.text
