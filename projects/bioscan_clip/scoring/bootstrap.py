"""Confidence intervals by resampling, without resampling one number at a time."""

from typing import Final

import numpy as np
import numpy.typing as npt

DRAWS: Final = 1000
LEVEL: Final = 0.95

Values = npt.NDArray[np.float64]


def micro_draws(accuracy: Values, n: int, rng: np.random.Generator) -> Values:
    """Draw micro accuracies of resampled specimens.

    Among n specimens drawn with replacement, the number of correct ones is binomial.

    Parameters
    ----------
    accuracy : numpy.ndarray
        float64, shape ``(M,)``, shares of correct specimens.
    n : int
        Specimens.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(DRAWS, M)``.
    """
    return rng.binomial(n, accuracy, size=(DRAWS, len(accuracy))) / n


def macro_draws(class_accuracy: Values, rng: np.random.Generator) -> Values:
    """Draw macro accuracies of resampled classes.

    Parameters
    ----------
    class_accuracy : numpy.ndarray
        float64, shape ``(C, M)``, each class's share of correct specimens.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(DRAWS, M)``.
    """
    classes = len(class_accuracy)
    times_drawn = rng.multinomial(classes, np.full(classes, 1 / classes), size=DRAWS)
    return times_drawn @ class_accuracy / classes


def interval(draws: Values) -> tuple[Values, Values]:
    """Return the lower and upper ends of the central 95% of draws, each of shape ``(M,)``."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high
