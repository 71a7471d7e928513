"""A step in chunks against the plain step over the whole batch."""

import weakref
from functools import partial

import lightning as L
import pytest
import torch
from mmlearn.modules.losses import ContrastiveLoss
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from projects.bioscan_clip.tasks import BioscanPretraining, gradient_caching
from tests import distributed
from tests.trainers import QUIET

BATCH, DIM = 14, 8
MODALITIES = ("rgb", "dna", "text")


class Encoder(nn.Module):
    """Two layers with dropout; knows how many specimens' activations are alive."""

    def __init__(self, modality: str, dropout: float) -> None:
        super().__init__()
        self.modality = modality
        self.first, self.second = nn.Linear(DIM, 32), nn.Linear(32, DIM)
        self.dropout = nn.Dropout(dropout)
        self.alive: list[tuple[weakref.ref, int]] = []
        self.most_alive = 0

    def forward(self, inputs):
        values = inputs[self.modality].flatten(1)
        hidden = self.first(values).sigmoid()  # the gradient needs the sigmoid's result
        self.alive = [(ref, n) for ref, n in self.alive if ref() is not None]
        self.alive.append((weakref.ref(hidden), len(values)))
        self.most_alive = max(self.most_alive, sum(n for _, n in self.alive))
        return (self.second(self.dropout(hidden)),)


def task(chunk: int | None, dropout: float = 0.0, loss=None, **changes) -> BioscanPretraining:
    torch.manual_seed(0)
    return BioscanPretraining(
        encoders={name: Encoder(name, dropout) for name in MODALITIES},
        heads={"text": nn.Sequential(nn.Linear(DIM, DIM))},
        optimizer=partial(torch.optim.SGD, lr=1.0),
        loss=loss or ContrastiveLoss(),
        gradient_cache_chunk=chunk,
        **changes,
    )


def batch(specimens: int = BATCH) -> dict:
    torch.manual_seed(1)
    ids = torch.stack([torch.zeros(specimens).long(), torch.arange(specimens)], dim=1)
    values = {name: torch.randn(specimens, DIM) for name in MODALITIES}
    return values | {"example_ids": dict.fromkeys(MODALITIES, ids)}


def gradients(of: BioscanPretraining, given: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    of.train()
    of.loss_fn(
        of(given), given["example_ids"], of.log_logit_scale.exp(), of.modality_loss_pairs
    ).backward()
    return {name: parameter.grad for name, parameter in of.named_parameters()}


@pytest.mark.parametrize("chunk", [1, 4, BATCH, 100])
def test_gradients_are_those_of_the_plain_step(chunk):
    torch.testing.assert_close(
        gradients(task(chunk), batch()), gradients(task(None), batch()), rtol=1e-5, atol=1e-6
    )


def test_only_one_chunk_keeps_its_activations():
    cached, plain = task(4), task(None)
    gradients(cached, batch())
    gradients(plain, batch())
    assert [encoder.most_alive for encoder in plain.encoders.values()] == [BATCH] * 3
    assert [encoder.most_alive for encoder in cached.encoders.values()] == [4] * 3


def test_dropout_is_the_same_in_both_passes(monkeypatch):
    """Bit for bit what the same chunks give that keep their activations."""
    cached = gradients(task(4, dropout=0.5), batch())
    monkeypatch.setattr(gradient_caching, "checkpoint", lambda encode, part, **_: encode(part))
    kept = gradients(task(4, dropout=0.5), batch())
    assert all(cached[name].equal(kept[name]) for name in kept)
    assert any(not cached[name].equal(g) for name, g in gradients(task(4), batch()).items())


def gradients_under_autocast(of: BioscanPretraining, given: dict) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = of(given)
        scale = of.log_logit_scale.exp()
        loss = of.loss_fn(embeddings, given["example_ids"], scale, of.modality_loss_pairs)
    loss.backward()
    return {name: parameter.grad for name, parameter in of.named_parameters()}


def test_gradients_of_chunks_are_summed_in_single_precision():
    """Summed in half precision, those of 128 chunks are three times as wrong."""
    given, name = batch(128), "encoders.rgb.first.weight"
    double = {n: v.double() if n in MODALITIES else v for n, v in given.items()}
    exact = gradients(task(None).double(), double)[name]
    plain, cached = (gradients_under_autocast(task(chunk), given)[name] for chunk in (None, 1))
    assert (cached - exact).norm() < 1.5 * (plain - exact).norm()


class Step(nn.Module):
    """What DDP wraps: encoders and loss."""

    def __init__(self, of: BioscanPretraining) -> None:
        super().__init__()
        self.task = of

    def forward(self, given):
        return self.task.loss_fn(
            self.task(given),
            given["example_ids"],
            self.task.log_logit_scale.exp(),
            self.task.modality_loss_pairs,
        )


def in_process(rank, chunk):
    step = DistributedDataParallel(Step(task(chunk, loss=ContrastiveLoss(gather_with_grad=True))))
    own = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    given = batch()
    ids = {name: values[own] for name, values in given.pop("example_ids").items()}
    step({name: values[own] for name, values in given.items()} | {"example_ids": ids}).backward()
    return {name: parameter.grad for name, parameter in step.module.task.named_parameters()}


def test_processes_together_equal_one():
    """DDP averages once, when the gradients of all chunks are summed."""
    expected = gradients(task(None), batch())
    for of_rank in distributed.run(in_process, 2, 3):
        torch.testing.assert_close(of_rank, expected, rtol=1e-5, atol=1e-6)


def trained(folder, chunk: int | None) -> BioscanPretraining:
    """Train for two steps with photos as workers deliver them."""
    photos = torch.randint(0, 256, (BATCH, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    poses = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).repeat(BATCH, 1, 1)
    given = batch() | {"rgb": photos.to(torch.uint8), "rgb_pose": poses}
    trained = task(chunk)
    trained.encoders["rgb"].first = nn.Linear(3 * 2 * 2, 32)
    trainer = L.Trainer(
        **QUIET,
        max_epochs=1,
        gradient_clip_val=0.5,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    loaders = [DataLoader([given] * 2, batch_size=None) for _ in range(2)]
    trainer.fit(trained, *loaders)  # also validates, where batches are not in chunks
    return trained


def test_lightning_trains_as_without(tmp_path):
    cached, plain = trained(tmp_path, 4), trained(tmp_path, None)
    torch.testing.assert_close(cached.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    assert not cached.log_logit_scale.equal(task(None).log_logit_scale)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="must be at least 1, but is 0"):
        task(0)
    encoders = {name: nn.Sequential(nn.BatchNorm1d(DIM)) for name in MODALITIES}
    with pytest.raises(ValueError, match=r"batch normalisation \(encoders.rgb.0\)"):
        BioscanPretraining(encoders=encoders, loss=ContrastiveLoss(), gradient_cache_chunk=4)
