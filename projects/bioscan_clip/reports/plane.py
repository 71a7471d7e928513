"""Lay vectors on a plane so that neighbours stay neighbours (PaCMAP, Wang et al., JMLR 2021)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import numpy.typing as npt
import pacmap

_NEIGHBOURS = 10

Floats = npt.NDArray[np.float32]


def flatten(vectors: Floats, seed: int) -> Floats:
    """Return two coordinates for each vector.

    Parameters
    ----------
    vectors : numpy.ndarray
        float32, shape ``(N, D)``, N at least 30.
    seed : int
        The same seed and vectors give the same plane on one machine.

    Returns
    -------
    numpy.ndarray
        float32, shape ``(N, 2)``.
    """
    logging.getLogger("pacmap").setLevel(logging.ERROR)
    neighbours = min(_NEIGHBOURS, len(vectors) // 5)
    with _global_state_kept():
        # The copy is for PaCMAP, which scales what it is given.
        plane = pacmap.PaCMAP(n_neighbors=neighbours, random_state=seed)
        flat: Floats = plane.fit_transform(vectors.copy(), init="pca").astype(np.float32)
    return flat


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what PaCMAP does to everyone: it seeds NumPy, and leaves one thread to FAISS."""
    state, threads = np.random.get_state(), faiss.omp_get_max_threads()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
        faiss.omp_set_num_threads(threads)
