"""How far confidences are what they say: probabilities that names are right."""

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def reliability(confidence: Floats, right: Mask, bins: int = 10) -> pd.DataFrame:
    """Compare confidence with accuracy, in bins of confidence.

    Parameters
    ----------
    confidence : numpy.ndarray
        float64, shape ``(N,)``, in [0, 1].
    right : numpy.ndarray
        bool, shape ``(N,)``.
    bins : int
        Bins of equal width; empty ones are left out.

    Returns
    -------
    pandas.DataFrame
        A row per bin, in ascending order: mean ``confidence``, ``accuracy`` and ``n``.
    """
    position = np.minimum((confidence * bins).astype(int), bins - 1)
    grouped = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(position)
    return grouped.mean().astype(float).assign(n=grouped.size()).reset_index(drop=True)


def expected_calibration_error(confidence: Floats, right: Mask, bins: int = 10) -> float:
    """Return the mean difference of confidence and accuracy over bins, weighted by their size."""
    table = reliability(confidence, right, bins)
    difference = (table["confidence"] - table["accuracy"]).abs()
    return float((difference * table["n"]).sum() / max(1, table["n"].sum()))


def coverage_curve(confidence: Floats, right: Mask, points: int = 100) -> pd.DataFrame:
    """Show how accuracy falls as more answers are accepted, the most confident ones first.

    Parameters
    ----------
    confidence, right
        As for :func:`reliability`; at least one.
    points : int
        Rows of the table, at most.

    Returns
    -------
    pandas.DataFrame
        ``coverage`` (share accepted) and ``accuracy`` among them.
    """
    order = np.argsort(-confidence, kind="stable")
    counts = np.unique(np.linspace(1, len(order), points).astype(int))
    hits = np.cumsum(right[order])[counts - 1]
    return pd.DataFrame({"coverage": counts / len(order), "accuracy": hits / counts})
