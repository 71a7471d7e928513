"""Accuracy of labels taken from nearest keys."""

import torch

from projects.bioscan_clip.datasets.taxonomy import UNKNOWN


def topk_correct(neighbour_labels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Say for each query and k whether one of its first k neighbours has its label.

    Parameters
    ----------
    neighbour_labels : torch.Tensor
        int64, shape ``(Q, K)``, labels of each query's neighbours, nearest first.
    labels : torch.Tensor
        int64, shape ``(Q,)``, known labels of the queries.

    Returns
    -------
    torch.Tensor
        bool, shape ``(Q, K)``; column ``k - 1`` is top-k correctness.
    """
    return (neighbour_labels == labels[:, None]).cummax(dim=1).values


def micro_accuracy(correct: torch.Tensor) -> float:
    """Return the share of correct queries.

    Parameters
    ----------
    correct : torch.Tensor
        bool, shape ``(Q,)``, with ``Q >= 1``.
    """
    return float(correct.double().mean())


def macro_accuracy(correct: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean over classes of each class's share of correct queries.

    Parameters
    ----------
    correct : torch.Tensor
        bool, shape ``(Q,)``, with ``Q >= 1``.
    labels : torch.Tensor
        int64, shape ``(Q,)``. Only classes that occur here count.
    """
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    hits = torch.zeros(len(sizes), dtype=torch.float64, device=labels.device)
    hits.index_add_(0, classes, correct.double())
    return float((hits / sizes).mean())


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two accuracies, 0 if both are 0."""
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def known(labels: torch.Tensor) -> torch.Tensor:
    """Say which labels are known; bool, of the same shape."""
    return labels != UNKNOWN
