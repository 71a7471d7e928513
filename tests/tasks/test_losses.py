"""Losses against mmlearn's, which holds the whole matrix of similarities, and against formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmlearn.datasets.core import find_matching_indices
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch.nn import functional as F

from projects.bioscan_clip.tasks.losses import (
    ChunkedContrastiveLoss,
    LabelAwareContrastiveLoss,
    matching_rows,
)
from tests import distributed

BATCH, DIM = 12, 5
MODALITIES = ("rgb", "dna", "text")
PAIRS = [LossPairSpec(("rgb", "dna"), weight=0.5), LossPairSpec(("dna", "text"), weight=2.0)]


def inputs(batch: int = BATCH, dtype: torch.dtype = torch.float32, seed: int = 0):
    """Return embeddings, ids and logit scale."""
    torch.manual_seed(seed)
    embeddings = {
        f"{name}_embedding": F.normalize(torch.randn(batch, DIM), dim=1).to(dtype)
        for name in MODALITIES
    }
    ids = torch.stack([torch.zeros(batch).long(), torch.randperm(batch)], dim=1)
    return embeddings, dict.fromkeys(MODALITIES, ids), torch.tensor(14.0)


def loss_and_gradients(loss, embeddings, ids, scale):
    """Return the loss, and its gradients by embeddings and logit scale."""
    leaves = {name: value.detach().requires_grad_() for name, value in embeddings.items()}
    scale = scale.detach().requires_grad_()
    value = loss(leaves, ids, scale, PAIRS)
    value.backward()
    return {"loss": value.detach(), "scale": scale.grad} | {n: v.grad for n, v in leaves.items()}


@pytest.mark.parametrize("chunk_size", [1, 4, BATCH, 100])
def test_equals_mmlearns_loss_and_gradients(chunk_size):
    ours = loss_and_gradients(ChunkedContrastiveLoss(chunk_size), *inputs())
    torch.testing.assert_close(ours, loss_and_gradients(ContrastiveLoss(), *inputs()))


def test_pairs_are_found_by_their_ids():
    """Modalities of other sizes and orders, specimens that lack one or come twice."""
    embeddings, _, scale = inputs()
    embeddings["dna_embedding"] = embeddings["dna_embedding"][:5]
    ids = {
        "rgb": torch.stack([torch.zeros(BATCH).long(), torch.arange(BATCH)], dim=1),
        "dna": torch.tensor([[0, 7], [1, 2], [0, 2], [0, 99], [0, 7]]),
        "text": torch.tensor([[0, 7], [1, 2]] + [[0, 50 + n] for n in range(BATCH - 2)]),
    }
    ours = loss_and_gradients(ChunkedContrastiveLoss(2), embeddings, ids, scale)
    torch.testing.assert_close(ours, loss_and_gradients(ContrastiveLoss(), embeddings, ids, scale))


IDS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=12)


@given(IDS, IDS)
def test_matching_rows_are_mmlearns(first, second):
    first, second = torch.tensor(first), torch.tensor(second)
    expected = find_matching_indices(first, second)
    torch.testing.assert_close(matching_rows(first, second), expected)


def test_modalities_without_pairs_count_nothing():
    embeddings, ids, scale = inputs()
    del embeddings["text_embedding"]
    absent = loss_and_gradients(ChunkedContrastiveLoss(4), embeddings, ids, scale)
    torch.testing.assert_close(
        absent, loss_and_gradients(ContrastiveLoss(), embeddings, ids, scale)
    )
    ids = {**ids, "dna": ids["dna"] + 100}
    nothing = loss_and_gradients(ChunkedContrastiveLoss(4), embeddings, ids, scale)
    assert all(not value.any() for value in nothing.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_costs_no_precision(dtype):
    """mmlearn's loss in double precision, of embeddings as an encoder under autocast gives them."""
    embeddings, ids, scale = inputs(dtype=dtype)
    double = {name: value.double() for name, value in embeddings.items()}
    expected = loss_and_gradients(ContrastiveLoss(), double, ids, scale.double())
    half = torch.float16 if dtype == torch.float16 else torch.bfloat16
    loss = torch.autocast("cpu", half)(ChunkedContrastiveLoss(4))  # the backward pass is outside
    ours = loss_and_gradients(loss, embeddings, ids, scale)
    assert ours["loss"].dtype == torch.float32
    torch.testing.assert_close(ours["loss"].double(), expected["loss"], rtol=1e-6, atol=0)
    for name in embeddings:
        assert ours[name].dtype == dtype
        torch.testing.assert_close(ours[name], expected[name].to(dtype))


def test_chunk_size_is_positive():
    with pytest.raises(ValueError, match="`chunk_size` must be at least 1, but is 0"):
        ChunkedContrastiveLoss(0)


LOSSES = {
    "chunked": ChunkedContrastiveLoss(2),
    "gathered": ContrastiveLoss(gather_with_grad=True),
    "local": ContrastiveLoss(local_loss=True, gather_with_grad=True),
    "not gathered": ContrastiveLoss(),
}


def in_process(rank, name, shares):
    embeddings, ids, scale = inputs()
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    return loss_and_gradients(
        LOSSES[name],
        {n: value[own] for n, value in embeddings.items()},
        {n: value[own] for n, value in ids.items()},
        scale,
    )


def as_ddp_averages(processes, function, *arguments):
    """Return what Lightning logs, and the gradients after DDP: means over processes."""
    parts = distributed.run(function, processes, *arguments)
    averaged = {n: torch.stack([part[n] for part in parts]).mean(0) for n in ("loss", "scale")}
    for modality in MODALITIES:  # rows of a process get their gradient from that one alone
        n = f"{modality}_embedding"
        averaged[n] = torch.cat([part[n] for part in parts]) / processes
    return averaged


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("chunked", [6, 6]),
        ("chunked", [2, 9, 1]),
        ("gathered", [6, 6]),
        ("gathered", [7, 5]),
        ("local", [6, 6]),
    ],
)
def test_processes_together_equal_one(name, shares):
    expected = loss_and_gradients(ContrastiveLoss(), *inputs())
    averaged = as_ddp_averages(len(shares), in_process, name, shares)
    torch.testing.assert_close(averaged, expected)


def test_gradients_of_others_are_needed():
    """Why `gathered-contrastive` gathers gradients: mmlearn's default loses half of them."""
    expected = loss_and_gradients(ContrastiveLoss(), *inputs())
    without = as_ddp_averages(2, in_process, "not gathered", [6, 6])
    torch.testing.assert_close(without["loss"], expected["loss"])
    torch.testing.assert_close(without["rgb_embedding"], expected["rgb_embedding"] / 2)


def fewer_pairs_than_processes(rank):
    embeddings, ids, scale = inputs(batch=1)
    absent = torch.tensor([[9, rank]])  # only the first process has a pair
    ids = ids if rank == 0 else {"rgb": ids["rgb"] + 10, "dna": absent, "text": absent - 5}
    return loss_and_gradients(ChunkedContrastiveLoss(2), embeddings, ids, scale)


def test_a_process_without_rows_takes_part():
    for part in distributed.run(fewer_pairs_than_processes, 3):
        assert torch.stack([value.isfinite().all() for value in part.values()]).all()


LABELS = torch.tensor([3, 5, 3, -1, -1, 5])


@pytest.mark.parametrize("labels", [torch.arange(BATCH), torch.full((BATCH,), -1)])
def test_distinct_labels_give_mmlearns_loss(labels):
    embeddings, ids, scale = inputs()
    expected = ContrastiveLoss()(embeddings, ids, scale, PAIRS)
    loss = LabelAwareContrastiveLoss()(embeddings, {"labels": labels}, scale, PAIRS)
    torch.testing.assert_close(loss, expected)


def test_label_aware_loss_equals_the_formula():
    """Loops over rows and columns; targets written out by hand for LABELS."""
    embeddings, _, scale = inputs(len(LABELS))
    positives = {0: [0, 2], 1: [1, 5], 2: [0, 2], 3: [3], 4: [4], 5: [1, 5]}
    expected = torch.zeros(())
    for pair in PAIRS:
        a, b = (embeddings[f"{name}_embedding"] for name in pair.modalities)
        for logits in (scale * a @ b.T, scale * b @ a.T):
            for row, columns in positives.items():
                log_probabilities = logits[row] - logits[row].exp().sum().log()
                expected -= pair.weight * log_probabilities[columns].sum() / (2 * len(LABELS))
    loss = LabelAwareContrastiveLoss()(embeddings, {"labels": LABELS}, scale, PAIRS)
    torch.testing.assert_close(loss, expected)


def test_labels_come_from_bin_or_species():
    batch = {"bin": torch.tensor([1, 2]), "labels": torch.tensor([[9, 9, 9, 3], [9, 9, 9, 4]])}
    assert LabelAwareContrastiveLoss("bin").labels_of(batch).tolist() == [1, 2]
    assert LabelAwareContrastiveLoss("species").labels_of(batch).tolist() == [3, 4]
    with pytest.raises(ValueError, match="genus"):
        LabelAwareContrastiveLoss("genus")


def label_aware(rank, processes):
    embeddings, _, scale = inputs(len(LABELS))
    own = slice(rank * len(LABELS) // processes, (rank + 1) * len(LABELS) // processes)
    local = {name: values[own] for name, values in embeddings.items()}
    return loss_and_gradients(LabelAwareContrastiveLoss(), local, {"labels": LABELS[own]}, scale)


def test_label_aware_loss_of_two_processes_is_that_of_one():
    torch.testing.assert_close(as_ddp_averages(2, label_aware, 2), label_aware(0, 1))
