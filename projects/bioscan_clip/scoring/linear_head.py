"""A linear classifier of photo embeddings: the supervised counterpart of nearest keys."""

import logging
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional as F

from projects.bioscan_clip.datasets.taxonomy import UNKNOWN
from projects.bioscan_clip.scoring.neighbours import QUERIES_AT_ONCE, blocks

logger = logging.getLogger(__name__)

INVERSE_PENALTY: Final = 100.0
"""Variance of the prior on each weight; scikit-learn's ``C``.

Between unit embeddings it lets logits differ by tens, as contrastive training does.
"""

_ITERATIONS: Final = 100
_EVALUATIONS: Final = 125  # of the loss; a step takes one or a few
_HISTORY: Final = 50  # steps remembered, each twice as large as the weights
_GRADIENT_TOLERANCE: Final = 1e-4  # of the summed loss, for any one weight


@dataclass(frozen=True)
class LinearHead:
    """Multinomial logistic regression from unit embeddings to species.

    Attributes
    ----------
    weights : torch.Tensor
        float32, shape ``(C, D)``.
    bias : torch.Tensor
        float32, shape ``(C,)``.
    labels : torch.Tensor
        int64, shape ``(C, 4)``, codes of each class's order, family, genus and species.
    """

    weights: torch.Tensor
    bias: torch.Tensor
    labels: torch.Tensor

    def predict(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the most probable species.

        Parameters
        ----------
        embeddings : torch.Tensor
            Floating point, shape ``(Q, D)``; need not be normalised.

        Returns
        -------
        probabilities : torch.Tensor
            float32, shape ``(Q,)``, the highest softmax probability.
        labels : torch.Tensor
            int64, shape ``(Q, 4)``, of that class.
        """
        probabilities = torch.empty(len(embeddings), device=self.weights.device)
        classes = torch.empty(len(embeddings), dtype=torch.int64, device=self.weights.device)
        for rows in blocks(len(embeddings), QUERIES_AT_ONCE):
            logits = F.linear(_unit(embeddings[rows]), self.weights, self.bias)
            probabilities[rows], classes[rows] = logits.softmax(dim=1).max(dim=1)
        return probabilities, self.labels[classes]


def fit_linear_head(embeddings: torch.Tensor, labels: torch.Tensor) -> LinearHead:
    """Fit a linear head by L-BFGS over all specimens, from zero.

    It minimises the sum of cross-entropies plus ``||W||^2 / (2 INVERSE_PENALTY)``, without a
    penalty on the bias. This is convex, so nothing is drawn at random. Time grows with specimens
    times species; of logits, only a block of specimens is held.

    Parameters
    ----------
    embeddings : torch.Tensor
        Floating point, shape ``(N, D)``; need not be normalised.
    labels : torch.Tensor
        int64, shape ``(N, 4)``, on the same device. Specimens of unknown species are left out. A
        species has the order, family and genus of its first specimen.

    Returns
    -------
    LinearHead
        On the embeddings' device.

    Raises
    ------
    ValueError
        If no specimen has a known species.
    """
    known = labels[:, -1] != UNKNOWN
    if not known.any():
        raise ValueError("A linear head needs specimens of known species, but there are none.")
    # Lightning evaluates in inference mode, whose tensors have no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        units, labels = _unit(embeddings[known]), labels[known]
        species, targets = labels[:, -1].unique(return_inverse=True)
        first = torch.full_like(species, len(labels)).scatter_reduce(
            0, targets, torch.arange(len(labels), device=labels.device), "amin"
        )
        weights, bias = _minimise(units, targets, len(species))
    return LinearHead(weights, bias, labels[first])


def _minimise(
    units: torch.Tensor, targets: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    n, width = units.shape
    weights = torch.zeros((classes, width), device=units.device, requires_grad=True)
    bias = torch.zeros(classes, device=units.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=_ITERATIONS,
        max_eval=_EVALUATIONS,
        history_size=_HISTORY,
        tolerance_grad=_GRADIENT_TOLERANCE / n,
        line_search_fn="strong_wolfe",
    )

    def mean_loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = weights.square().sum() / (2 * INVERSE_PENALTY * n)
        total.backward()
        for rows in blocks(n, QUERIES_AT_ONCE):
            logits = F.linear(units[rows], weights, bias)
            loss = F.cross_entropy(logits, targets[rows], reduction="sum") / n
            loss.backward()
            total = total.detach() + loss.detach()
        return total

    optimizer.step(mean_loss)
    done = optimizer.state[weights]
    if done["n_iter"] >= _ITERATIONS or done["func_evals"] >= _EVALUATIONS:
        logger.warning(
            "The linear head did not converge in %d steps of L-BFGS; its numbers may be too low.",
            done["n_iter"],
        )
    return weights.detach(), bias.detach()


def _unit(embeddings: torch.Tensor) -> torch.Tensor:
    return F.normalize(embeddings.float(), dim=1)
