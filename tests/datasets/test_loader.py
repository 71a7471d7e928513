"""Batches are compared with those of PyTorch's loader and mmlearn's collator."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint
from mmlearn.datasets.core import CombinedDataset, DefaultDataCollator
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from projects.bioscan_clip.datasets.loader import SpecimenLoader, WindowedSampler
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.transforms import finish_batch
from tests.trainers import QUIET

BATCH = 16


def specimens(path, *splits: str, **options) -> CombinedDataset:
    return CombinedDataset(
        [BIOSCANInsectDataset(path, split, image_size=16, **options) for split in splits]
    )


def training_loader(path, **options) -> SpecimenLoader:
    dataset = specimens(path, "train_seen")
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=3)
    return SpecimenLoader(dataset, BATCH, sampler=sampler, **options)


def fingerprints(batches) -> list[tuple]:
    return [
        (batch["example_index"].tolist(), batch["rgb"].sum().item(), batch["rgb_pose"].sum().item())
        for batch in batches
    ]


def assert_equal(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            assert all(value[name].equal(theirs[key][name]) for name in value)
        else:
            assert value.equal(theirs[key]), key


@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_are_those_of_the_plain_loader(sample_file, shuffled):
    """Over three splits, whose borders lie within batches."""
    dataset = specimens(sample_file, "val_seen", "val_unseen", "seen_keys", for_training=False)
    order = torch.randperm(len(dataset)).tolist() if shuffled else list(range(len(dataset)))
    options = {"batch_size": 13, "sampler": order}
    plain = DataLoader(dataset, collate_fn=DefaultDataCollator(), **options)
    ours = SpecimenLoader(dataset, **options)
    assert len(ours) == len(plain) > 3
    for batch, expected in zip(ours, plain, strict=True):
        modalities = {name: expected["example_ids"][name] for name in ("rgb", "dna", "text")}
        assert_equal(finish_batch(batch), expected | {"example_ids": modalities})


def test_workers_do_not_change_batches(sample_file):
    alone = fingerprints(training_loader(sample_file, seed=1))
    assert fingerprints(training_loader(sample_file, seed=1, num_workers=1)) == alone
    assert fingerprints(training_loader(sample_file, seed=1, num_workers=3)) == alone
    assert fingerprints(training_loader(sample_file, seed=2)) != alone


@pytest.mark.parametrize("persistent", [False, True])
def test_epochs_augment_anew_also_in_workers_that_live_on(sample_file, persistent):
    loader = training_loader(sample_file, num_workers=2, persistent_workers=persistent)
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        epochs.append(fingerprints(loader))
    assert epochs[0] == epochs[2]
    photos = [{tuple(sorted(ids)): total for ids, total, _ in epoch} for epoch in epochs]
    assert photos[0] != photos[1]


def test_samplers_without_epochs_are_counted(sample_file):
    loader = SpecimenLoader(specimens(sample_file, "train_seen"), BATCH)
    first, second = fingerprints(loader), fingerprints(loader)
    assert [ids for ids, *_ in first] == [ids for ids, *_ in second]
    assert first != second


def test_seed_is_that_of_mmlearn(sample_file):
    L.seed_everything(5)
    assert fingerprints(training_loader(sample_file)) == fingerprints(
        training_loader(sample_file, seed=5)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 4])
def test_epoch_is_resumed_where_it_stopped(sample_file, workers, taken):
    straight = training_loader(sample_file, seed=0, num_workers=workers)
    expected = fingerprints(straight)
    stopped = training_loader(sample_file, seed=0, num_workers=workers)
    batches = iter(stopped)
    for _ in range(taken):
        next(batches)
    resumed = training_loader(sample_file, seed=0, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    assert fingerprints(resumed) == expected[taken:]
    assert fingerprints(resumed) == expected  # the epoch after begins at its beginning
    resumed.load_state_dict(straight.state_dict())
    assert fingerprints(resumed) == expected  # nothing was left of the epoch that ended


class Recorder(L.LightningModule):
    """A model of one weight that notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []

    def training_step(self, batch, batch_idx):
        self.seen += fingerprints([batch])
        return self.weight * batch["rgb"].float().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(path, folder, resume_from=None, **options) -> Recorder:
    model = Recorder()
    checkpoints = ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    trainer = L.Trainer(
        **QUIET,
        callbacks=[checkpoints],
        **options,
    )
    trainer.fit(model, training_loader(path, seed=0, num_workers=1), ckpt_path=resume_from)
    return model


def test_training_resumed_within_an_epoch_sees_what_it_would_have_seen(sample_file, tmp_path):
    straight = fit(sample_file, tmp_path, max_epochs=2)
    per_epoch = len(straight.seen) // 2
    steps = [5, per_epoch // 5 * 5 + 5]
    assert steps[0] < per_epoch < steps[1] < 2 * per_epoch  # one in each epoch
    for step in steps:
        checkpoint = tmp_path / f"step={step}.ckpt"
        resumed = fit(sample_file, tmp_path, checkpoint, max_epochs=2)
        assert resumed.seen == straight.seen[step:]
        assert resumed.weight.equal(straight.weight)


def test_lightning_can_replace_the_sampler(sample_file, tmp_path):
    """As it does to overfit, and to spread a loader over processes."""
    model = fit(sample_file, tmp_path, max_epochs=2, overfit_batches=2)
    assert [ids for ids, *_ in model.seen[:2]] == [ids for ids, *_ in model.seen[2:]]
    assert model.seen[0][0] == list(range(BATCH))


class OtherDataset(Dataset):
    def __len__(self):
        return 3


def test_other_data_sets_are_refused():
    with pytest.raises(TypeError, match="reads BIOSCANInsectDataset only, but got OtherDataset"):
        SpecimenLoader(CombinedDataset([OtherDataset()]))


def test_collators_that_would_have_no_effect_are_refused(sample_file):
    collator = DefaultDataCollator(batch_processors={"rgb": torch.flatten})
    with pytest.raises(TypeError, match="has no use for the collate_fn"):
        SpecimenLoader(specimens(sample_file, "val_seen"), collate_fn=collator)


ROWS = st.integers(1, 60)


def order(rows: int, epoch: int = 0, **options) -> list[int]:
    sampler = WindowedSampler(range(rows), **options)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(ROWS, st.integers(1, 80), st.integers(0, 5))
def test_every_row_once(rows, window, epoch):
    assert sorted(order(rows, epoch, window=window)) == list(range(rows))


@given(ROWS, st.integers(1, 20), st.integers(1, 4))
def test_processes_share_the_rows_and_the_windows(rows, window, processes):
    parts = [
        order(rows, window=window, num_replicas=processes, rank=rank) for rank in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    interleaved = np.array(parts).T.ravel().tolist()
    alone = order(rows, window=window)
    assert interleaved[:rows] == alone
    assert set(interleaved[rows:]) <= set(alone)  # repeated to divide evenly


def test_rows_of_a_window_follow_each_other():
    positions = np.array(order(1000, window=50))
    spans = [np.ptp(positions[start : start + 50]) for start in range(0, 1000, 50)]
    # A stretch of 50 lies in at most three windows, of which all but the cut one are whole.
    cuts = np.flatnonzero(np.abs(np.diff(positions)) >= 50)
    assert len(cuts) <= 21
    assert np.median(np.abs(np.diff(positions))) < 50
    assert max(spans) > 50  # windows themselves are not in order


def test_windows_differ_from_epoch_to_epoch_and_agree_between_calls():
    assert order(100, 0, window=10) != order(100, 1, window=10)
    assert order(100, 3, window=10) == order(100, 3, window=10)
    assert order(100, 0, window=10, seed=1) != order(100, 0, window=10, seed=2)
    bounds = [set(order(100, epoch, window=10)[10:20]) for epoch in range(8)]
    assert len({min(bound) % 10 for bound in bounds}) > 1


def test_window_must_be_positive():
    with pytest.raises(ValueError, match="`window` must be at least 1, but is 0"):
        WindowedSampler(range(5), window=0)
