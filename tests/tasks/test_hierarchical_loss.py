"""The hierarchical loss against its formula, written as loops."""

import pytest
import torch
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch.nn import functional as F

from projects.bioscan_clip.tasks import HierarchicalContrastiveLoss
from tests import distributed

BATCH, DIM = 8, 4
SCALE = torch.tensor(9.0)
PAIRS = [LossPairSpec(("rgb", "dna"), weight=0.5), LossPairSpec(("dna", "text"))]
WEIGHTS = [0.1, 0.2, 0.3, 0.5, 0.9]
LABELS = torch.tensor(
    [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, -1],
        [0, 1, 1, -1],
        [0, 0, -1, -1],
        [1, 2, 2, 1],
        [1, 2, 2, -1],
        [-1, -1, -1, -1],
    ]
)


@pytest.fixture
def embeddings():
    torch.manual_seed(3)
    return {
        f"{name}_embedding": F.normalize(torch.randn(BATCH, DIM), dim=1)
        for name in ("rgb", "dna", "text")
    }


def loop(embeddings, labels, scale, constrained):
    total = torch.zeros(())
    levels = torch.cat([labels, torch.arange(len(labels))[:, None]], dim=1)
    for pair in PAIRS:
        losses = []
        for level in range(5):
            taxa = levels[:, level].tolist()
            known = [i for i in range(len(taxa)) if taxa[i] != -1]
            terms = []
            for one, other in (pair.modalities, pair.modalities[::-1]):
                a, b = embeddings[f"{one}_embedding"], embeddings[f"{other}_embedding"]
                for i in known:
                    logits = {j: scale * a[i] @ b[j] for j in known}
                    positives = [j for j in known if taxa[j] == taxa[i]]
                    normaliser = torch.stack(list(logits.values())).exp().sum().log()
                    terms += [(normaliser - logits[j]) / len(positives) for j in positives]
            losses.append(sum(terms, torch.zeros(())) / max(2 * len(known), 1))
            if constrained and level and losses[-1] < losses[-2]:
                losses[-1] = losses[-2]
        weighted = sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True))
        total = total + pair.weight * weighted / sum(WEIGHTS)
    return total


def gradients(function, embeddings):
    leaves = {name: value.clone().requires_grad_() for name, value in embeddings.items()}
    scale = SCALE.clone().requires_grad_()
    loss = function(leaves, scale)
    loss.backward()
    return {name: value.grad for name, value in leaves.items()} | {
        "loss": loss.detach(),
        "scale": scale.grad,
    }


def ours(embeddings, labels=LABELS, **options):
    loss = HierarchicalContrastiveLoss(WEIGHTS, **options)
    return gradients(lambda e, scale: loss(e, {"labels": labels}, scale, PAIRS), embeddings)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("constrained", [False, True])
def test_equals_the_formula_in_value_and_gradient(embeddings, chunk_size, constrained):
    found = ours(embeddings, chunk_size=chunk_size, constrained=constrained)
    expected = gradients(lambda e, scale: loop(e, LABELS, scale, constrained), embeddings)
    torch.testing.assert_close(found, expected)


def test_the_constraint_matters_here(embeddings):
    assert ours(embeddings, constrained=True)["loss"] > ours(embeddings)["loss"] + 0.01


def test_specimens_of_no_common_taxon_give_mmlearns_loss(embeddings):
    ids = torch.stack([torch.zeros(BATCH), torch.arange(BATCH)], dim=1)
    example_ids = dict.fromkeys(("rgb", "dna", "text"), ids)
    expected = gradients(
        lambda e, scale: ContrastiveLoss()(e, example_ids, scale, PAIRS), embeddings
    )
    distinct = torch.arange(4 * BATCH).view(BATCH, 4)
    torch.testing.assert_close(ours(embeddings, distinct), expected)


def test_ranks_that_nobody_has_add_nothing(embeddings):
    unknown = torch.full((BATCH, 4), -1)
    expected = gradients(lambda e, scale: loop(e, unknown, scale, False), embeddings)
    torch.testing.assert_close(ours(embeddings, unknown), expected)


def in_process(rank, embeddings, shares, constrained):
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    embeddings = {name: value[own] for name, value in embeddings.items()}
    return ours(embeddings, LABELS[own], chunk_size=2, constrained=constrained)


@pytest.mark.parametrize(
    ("shares", "constrained"), [([4, 4], False), ([4, 4], True), ([6, 1, 1], True)]
)
def test_processes_together_equal_one(embeddings, shares, constrained):
    """As Lightning and DDP average; rows of a process get their gradient from that one alone."""
    parts = distributed.run(in_process, len(shares), embeddings, shares, constrained)
    for name, expected in ours(embeddings, constrained=constrained).items():
        values = [part[name] for part in parts]
        together = torch.cat(values) / len(shares) if expected.ndim else torch.stack(values).mean()
        torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [1, 1, 1, 1, -1], [0, 0, 0, 0, 0]])
def test_weights_are_five(weights):
    with pytest.raises(ValueError, match="`weights` must be five numbers from 0 on"):
        HierarchicalContrastiveLoss(weights)
