"""SigLIP's loss against its formula, written as a loop over all pairs."""

import pytest
import torch
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch.nn import functional as F

from projects.bioscan_clip.tasks import SigLIPLoss
from tests import distributed

BATCH, DIM = 7, 4
PAIRS = [LossPairSpec(("rgb", "dna"), weight=0.5), LossPairSpec(("dna", "text"))]


def inputs():
    """Return embeddings, ids of modalities in different orders, and logit scale."""
    torch.manual_seed(0)
    embeddings = {
        f"{name}_embedding": F.normalize(torch.randn(BATCH, DIM), dim=1)
        for name in ("rgb", "dna", "text")
    }
    ids = {
        name: torch.stack([torch.zeros(BATCH).long(), torch.randperm(BATCH)], dim=1)
        for name in ("rgb", "dna", "text")
    }
    return embeddings, ids, torch.tensor(10.0)


def loop(embeddings, ids, scale, bias):
    total = torch.zeros(())
    for pair in PAIRS:
        a, b = (embeddings[f"{name}_embedding"] for name in pair.modalities)
        first, second = (ids[name] for name in pair.modalities)
        for i in range(BATCH):
            for j in range(BATCH):
                sign = 1 if first[i].equal(second[j]) else -1
                probability = torch.sigmoid(sign * (scale * a[i] @ b[j] + bias))
                total = total - pair.weight * probability.log() / BATCH
    return total


def gradients(function, embeddings, ids, scale, bias):
    leaves = {name: value.clone().requires_grad_() for name, value in embeddings.items()}
    scale = scale.clone().requires_grad_()
    loss = function(leaves, ids, scale)
    loss.backward()
    found = {name: value.grad for name, value in leaves.items()}
    return found | {"loss": loss.detach(), "scale": scale.grad, "bias": bias.grad}


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_equals_the_formula_in_value_and_gradient(chunk_size):
    siglip = SigLIPLoss(chunk_size, init_bias=-3.0)
    ours = gradients(lambda *given: siglip(*given, PAIRS), *inputs(), siglip.bias)
    bias = torch.tensor(-3.0, requires_grad=True)
    expected = gradients(lambda *given: loop(*given, bias), *inputs(), bias)
    torch.testing.assert_close(ours, expected)


def in_process(rank, shares):
    embeddings, ids, scale = inputs()
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    siglip = SigLIPLoss(2, init_bias=-3.0)
    embeddings = {name: value[own] for name, value in embeddings.items()}
    ids = {name: value[own] for name, value in ids.items()}
    return gradients(lambda *given: siglip(*given, PAIRS), embeddings, ids, scale, siglip.bias)


@pytest.mark.parametrize("shares", [[4, 3], [1, 5, 1]])
def test_processes_together_equal_one(shares):
    """As Lightning and DDP average; rows of a process get their gradient from that one alone."""
    parts = distributed.run(in_process, len(shares), shares)
    siglip = SigLIPLoss(init_bias=-3.0)
    whole = gradients(lambda *given: siglip(*given, PAIRS), *inputs(), siglip.bias)
    for name, expected in whole.items():
        values = [part[name] for part in parts]
        together = torch.cat(values) / len(shares) if expected.ndim else torch.stack(values).mean()
        torch.testing.assert_close(together, expected)
