import pytest
import torch
from mmlearn.modules.losses import ContrastiveLoss
from mmlearn.tasks.contrastive_pretraining import LossPairSpec
from torch.nn import functional as F

from projects.bioscan_clip.tasks import LabelAwareContrastiveLoss
from tests import distributed

BATCH, DIM = 6, 4
SCALE = torch.tensor(7.0)
PAIRS = [LossPairSpec(("rgb", "dna"), weight=0.5), LossPairSpec(("dna", "text"))]
LABELS = torch.tensor([3, 5, 3, -1, -1, 5])


@pytest.fixture
def embeddings() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        f"{name}_embedding": F.normalize(torch.randn(BATCH, DIM), dim=1).requires_grad_()
        for name in ("rgb", "dna", "text")
    }


def test_distinct_labels_give_mmlearns_loss(embeddings):
    ids = torch.stack([torch.zeros(BATCH), torch.arange(BATCH)], dim=1)
    example_ids = dict.fromkeys(("rgb", "dna", "text"), ids)
    expected = ContrastiveLoss()(embeddings, example_ids, SCALE, PAIRS)
    for labels in (torch.arange(BATCH), torch.full((BATCH,), -1)):
        loss = LabelAwareContrastiveLoss()(embeddings, {"labels": labels}, SCALE, PAIRS)
        torch.testing.assert_close(loss, expected)


def test_equals_the_formula(embeddings):
    """Loops over rows and columns; targets written out by hand for LABELS."""
    positives = {0: [0, 2], 1: [1, 5], 2: [0, 2], 3: [3], 4: [4], 5: [1, 5]}
    expected = torch.zeros(())
    for pair in PAIRS:
        a, b = (embeddings[f"{name}_embedding"] for name in pair.modalities)
        for logits in (SCALE * a @ b.T, SCALE * b @ a.T):
            for row, columns in positives.items():
                log_probabilities = logits[row] - logits[row].exp().sum().log()
                expected = expected - pair.weight * log_probabilities[columns].sum() / (2 * BATCH)
    loss = LabelAwareContrastiveLoss()(embeddings, {"labels": LABELS}, SCALE, PAIRS)
    torch.testing.assert_close(loss, expected)


def test_labels_come_from_bin_or_species():
    batch = {"bin": torch.tensor([1, 2]), "labels": torch.tensor([[9, 9, 9, 3], [9, 9, 9, 4]])}
    assert LabelAwareContrastiveLoss("bin").labels_of(batch).tolist() == [1, 2]
    assert LabelAwareContrastiveLoss("species").labels_of(batch).tolist() == [3, 4]
    with pytest.raises(ValueError, match="genus"):
        LabelAwareContrastiveLoss("genus")


def loss_and_gradients(rank, embeddings, processes):
    share = slice(rank * BATCH // processes, (rank + 1) * BATCH // processes)
    local = {name: values[share].detach().requires_grad_() for name, values in embeddings.items()}
    loss = LabelAwareContrastiveLoss()(local, {"labels": LABELS[share]}, SCALE, PAIRS)
    loss.backward()
    return {"loss": loss.detach(), "gradients": {name: v.grad for name, v in local.items()}}


def test_two_processes_equal_one(embeddings):
    """DDP averages gradients over processes, so each one's must be as many times the full one."""
    loss = LabelAwareContrastiveLoss()(embeddings, {"labels": LABELS}, SCALE, PAIRS)
    loss.backward()
    plain = {name: values.detach() for name, values in embeddings.items()}
    parts = distributed.run(loss_and_gradients, 2, plain, 2)
    for part in parts:
        torch.testing.assert_close(part["loss"], loss.detach())
    for name, values in embeddings.items():
        gathered = torch.cat([part["gradients"][name] for part in parts])
        torch.testing.assert_close(gathered / 2, values.grad)
