"""Bayesian zero-shot learning: photos of species that training had none of, named through DNA.

Every class is a Student t distribution of photo embeddings. That of a seen class is estimated from
its photos and a prior that all classes share; that of an unseen class from the photos of the seen
classes whose barcodes are nearest to its own (Badirli et al., Fine-Grained Zero-Shot Learning with
DNA as Side Information, NeurIPS 2021, arXiv 2109.14133, section 3 and supplement).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, pi, sqrt
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import gammaln

from projects.bioscan_clip.scoring.accuracy import class_accuracy, harmonic_mean

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_HELD_OUT: Final = 0.2
_SEED: Final = 42


@dataclass(frozen=True)
class Hyperparameters:
    """What the classifier is tuned by; the published choice for INSECT by default.

    Attributes
    ----------
    neighbours : int
        K, seen classes that stand in for an unseen one.
    k0, k1 : float
        Scales of the prior on means, of groups of classes and of classes.
    m : int
        Degrees of freedom of the prior on covariances, as a multiple of the dimension.
    s : float
        The prior covariance is divided by it.
    """

    neighbours: int = 3
    k0: float = 0.1
    k1: float = 10.0
    m: int = 5
    s: float = 10.0


GRID: Final = tuple(
    Hyperparameters(*values)
    for values in product((1, 2, 3), (0.1, 1.0), (10.0, 25.0), (5, 25, 100, 500), (1.0, 5.0, 10.0))
)
"""Where the published code looks for the best."""


@dataclass(frozen=True)
class ZeroShot:
    """What was chosen on validation classes, and how often test photos are named right by it.

    Attributes
    ----------
    chosen : Hyperparameters
        Those of the best harmonic mean on validation classes.
    dimension : int
        To which photo embeddings were reduced.
    seen, unseen, harmonic : float
        Mean over the test's classes of each one's share of right photos, 0 to 1, and the harmonic
        mean of the two.
    """

    chosen: Hyperparameters
    dimension: int
    seen: float
    unseen: float
    harmonic: float


class BayesianClassifier:
    r"""Names photos by the densest class.

    With the prior mean :math:`\mu_0` (of class means) and covariance :math:`\Sigma_0` (mean of
    class covariances), embeddings are first whitened, so that :math:`\mu_0 = 0` and
    :math:`\Sigma_0 = I`. Then the scale matrix of each class is a multiple of :math:`c I + R^T R`,
    with a row in R for each of its few photos, and is inverted by way of :math:`R R^T`.

    Parameters
    ----------
    photos : numpy.ndarray
        Shape ``(N, D)``, embeddings of training photos.
    labels : numpy.ndarray
        int64, shape ``(N,)``, codes of their classes, which are rows of `side`.
    side : numpy.ndarray
        Shape ``(C, E)``, the mean DNA embedding of each class.
    unseen : numpy.ndarray
        int64, codes of classes without a training photo.
    components : int, default=500
        Principal components that are kept, if there are so many.

    Attributes
    ----------
    classes : numpy.ndarray
        int64, codes of seen, then of unseen classes.
    dimension : int
        Number of components kept.

    Raises
    ------
    ValueError
        If an unseen class has training photos, or photos do not vary within classes.
    """

    def __init__(
        self,
        photos: npt.NDArray[np.floating],
        labels: Integers,
        side: npt.NDArray[np.floating],
        unseen: Integers,
        components: int = 500,
    ) -> None:
        seen, members, self._counts = np.unique(labels, return_inverse=True, return_counts=True)
        if common := np.intersect1d(seen, unseen).tolist():
            raise ValueError(f"Classes {common} are to be unseen, but have training photos.")
        self.classes = np.concatenate([seen, unseen])
        # More components than this have no covariance within classes.
        self.dimension = min(components, photos.shape[1], len(labels) - len(seen))
        photos = photos.astype(np.float64)
        directions = eigh(np.atleast_2d(np.cov(photos.T)))[1][:, photos.shape[1] - self.dimension :]
        groups = np.split(
            (photos @ directions)[np.argsort(members, kind="stable")], self._counts.cumsum()[:-1]
        )
        try:
            covariance = np.mean([np.cov(group.T) for group in groups if len(group) > 1], axis=0)
            root = cholesky(np.atleast_2d(covariance), lower=True)
        except ValueError as error:
            raise ValueError(
                f"The {len(photos):,} photo embeddings do not vary within classes in all of "
                f"{self.dimension} dimensions, so that classes have no density: do different "
                "photos have different embeddings?"
            ) from error
        self._log_root: float = np.log(root.diagonal()).sum()
        self._whitening = solve_triangular(root, directions.T, lower=True).T
        groups = [solve_triangular(root, group.T, lower=True).T for group in groups]
        means = np.stack([group.mean(axis=0) for group in groups])
        self._rows = [group - mean for group, mean in zip(groups, means, strict=True)]
        self._centre = means.mean(axis=0)
        self._means = means - self._centre
        self._nearest = cdist(side[unseen], side[seen]).argsort(axis=1, kind="stable")

    def predict(
        self, photos: npt.NDArray[np.floating], grid: Sequence[Hyperparameters]
    ) -> Integers:
        """Name photos.

        Parameters
        ----------
        photos : numpy.ndarray
            Shape ``(Q, D)``.
        grid : sequence of Hyperparameters
            G of them.

        Returns
        -------
        numpy.ndarray
            int64, shape ``(G, Q)``, codes of classes.
        """
        best = np.full((len(grid), len(photos)), -np.inf)
        named = np.empty(best.shape, dtype=np.int64)
        for code, densities in zip(self.classes, self.log_densities(photos, grid), strict=True):
            denser = densities > best
            np.copyto(best, densities, where=denser)
            named[denser] = code
        return named

    def log_densities(
        self, photos: npt.NDArray[np.floating], grid: Sequence[Hyperparameters]
    ) -> Iterator[Floats]:
        """Yield for each of `classes` the log densities, float64 ``(G, Q)``, of photos ``(Q, D)``.

        They are those of the principal components of a photo.
        """
        queries = photos.astype(np.float64) @ self._whitening - self._centre
        squares = np.einsum("qd,qd->q", queries, queries)
        surrogates = {k: self._surrogates(k) for k in {each.neighbours for each in grid}}
        for number in range(len(self.classes)):
            unseen = number - len(self._counts)
            alike: dict[tuple[tuple[int, ...], float, float], list[int]] = {}
            for place, each in enumerate(grid):
                group = (number,) if unseen < 0 else surrogates[each.neighbours][unseen]
                alike.setdefault((group, each.k0, each.k1), []).append(place)
            densities = np.empty((len(grid), len(queries)))
            for (group, k0, k1), places in alike.items():
                posterior = self._seen if unseen < 0 else self._unseen
                given = [grid[place] for place in places]
                densities[places] = self._student(queries, squares, posterior(group, k0, k1), given)
            yield densities

    def _surrogates(self, count: int) -> list[tuple[int, ...]]:
        """Return each unseen class's nearest seen ones; the last differs where sets were equal."""
        taken: set[frozenset[int]] = set()
        chosen = []
        for nearest in self._nearest.tolist():
            k = min(count, len(nearest))
            sets = [(*nearest[: k - 1], last) for last in nearest[k - 1 :]]
            chosen.append(next((each for each in sets if frozenset(each) not in taken), sets[0]))
            taken.add(frozenset(chosen[-1]))
        return chosen

    def _seen(self, group: tuple[int, ...], k0: float, k1: float) -> "_Posterior":
        """Combine the photos of one class with the prior."""
        (n,), (mean,) = self._counts[[*group]].tolist(), self._means[[*group]]
        kappa = k0 * k1 / (k0 + k1)
        spread = sqrt(n * kappa / (n + kappa)) * mean[None]
        rows = np.concatenate([self._rows[group[0]], spread])
        return _Posterior(n / (n + kappa) * mean, rows, n + kappa, n)

    def _unseen(self, group: tuple[int, ...], k0: float, k1: float) -> "_Posterior":
        """Combine the photos of the classes that stand in for one with the prior."""
        n = self._counts[[*group]]
        kappas = n * k1 / (n + k1)
        total = float(kappas.sum()) + k0
        rows = np.concatenate([self._rows[k] for k in group])
        mean = kappas @ self._means[[*group]] / total
        return _Posterior(mean, rows, total * k1 / (total + k1), int(n.sum()) - len(n))

    def _student(
        self,
        queries: Floats,
        squares: Floats,
        posterior: "_Posterior",
        grid: Sequence[Hyperparameters],
    ) -> Floats:
        """Return log densities (G, Q) of queries (Q, d) with squared norms (Q,).

        With R R' = U diag(l) U', the inverse of c I + R'R is (I - R'U diag(1 / (c + l)) U'R) / c.
        """
        d, rows, mean, kappa = self.dimension, posterior.rows, posterior.mean, posterior.kappa
        m = np.array([float(each.m * d) for each in grid])
        c = (m - d - 1) / np.array([each.s for each in grid])
        free = posterior.count + m - d + 1
        factor = (kappa + 1) / (kappa * free)
        spreads, basis = eigh(rows @ rows.T)  # (R,), (R, R)
        axes = basis.T @ rows
        offsets = (queries @ axes.T - axes @ mean) ** 2  # (Q, R)
        distances = (
            squares - 2 * queries @ mean + mean @ mean - (1 / (c[:, None] + spreads)) @ offsets.T
        )
        log_det = d * np.log(factor * c) + np.log1p(spreads / c[:, None]).sum(axis=1)
        constant = gammaln((free + d) / 2) - gammaln(free / 2) - d / 2 * np.log(free * pi)
        constant -= log_det / 2 + self._log_root
        distances /= (factor * c * free)[:, None]
        densities: Floats = constant[:, None] - (free + d)[:, None] / 2 * np.log1p(distances)
        return densities


@dataclass(frozen=True)
class _Posterior:
    """What the photos of some classes tell of one class, as whitened.

    Its mean (d,), its scatter as rows (R, d), by how many photos the mean is known, and degrees of
    freedom beyond the prior's.
    """

    mean: Floats
    rows: Floats
    kappa: float
    count: int


def zero_shot(
    photos: npt.NDArray[np.floating],
    side: npt.NDArray[np.floating],
    labels: Integers,
    splits: Mapping[str, Integers],
    grid: Sequence[Hyperparameters] = GRID,
) -> ZeroShot:
    """Tune on validation classes, then score the test's photos, of seen and unseen classes.

    Parameters
    ----------
    photos : numpy.ndarray
        Shape ``(N, D)``, embeddings of all photos.
    side : numpy.ndarray
        Shape ``(C, E)``, the mean DNA embedding of each class.
    labels : numpy.ndarray
        int64, shape ``(N,)``, codes of classes.
    splits : mapping of str to numpy.ndarray
        Rows of ``train`` and ``val`` (classes that are unseen in tuning), and of ``trainval``,
        ``test_seen`` and ``test_unseen``.
    grid : sequence of Hyperparameters
        To choose from; of equally good ones the first is taken.

    Returns
    -------
    ZeroShot
        Choice and accuracies.

    Raises
    ------
    ValueError
        As :class:`BayesianClassifier`.
    """
    train, held_out = hold_out(splits["train"], labels)
    *_, harmonic, _ = _score(photos, side, labels, (train, held_out, splits["val"]), grid)
    chosen = grid[int(harmonic.argmax())]
    test = splits["trainval"], splits["test_seen"], splits["test_unseen"]
    seen, unseen, harmonic, dimension = _score(photos, side, labels, test, [chosen])
    return ZeroShot(chosen, dimension, float(seen[0]), float(unseen[0]), float(harmonic[0]))


def hold_out(rows: Integers, labels: Integers) -> tuple[Integers, Integers]:
    """Split rows in those to train on and a fifth of each class, rounded up, to tune by.

    They are shuffled with the seed, and chosen, as in BarcodeBERT's code; but a class keeps at
    least one row to train on.
    """
    shuffled = rows.tolist()
    Random(_SEED).shuffle(shuffled)
    by_class: dict[int, list[int]] = {}
    for row in shuffled:
        by_class.setdefault(int(labels[row]), []).append(row)
    kept: list[int] = []
    held_out: list[int] = []
    for _, members in sorted(by_class.items()):
        count = min(ceil(_HELD_OUT * len(members)), len(members) - 1)
        held_out += members[:count]
        kept += members[count:]
    return np.array(kept, dtype=np.int64), np.array(held_out, dtype=np.int64)


def _score(
    photos: npt.NDArray[np.floating],
    side: npt.NDArray[np.floating],
    labels: Integers,
    rows: tuple[Integers, Integers, Integers],
    grid: Sequence[Hyperparameters],
) -> tuple[Floats, Floats, Floats, int]:
    """Return accuracy of seen and unseen classes and their harmonic mean, (G,), and the dimension.

    ``rows`` are those to train on, of seen and of unseen classes.
    """
    train, seen, unseen = rows
    classifier = BayesianClassifier(photos[train], labels[train], side, np.unique(labels[unseen]))
    accuracies = []
    for part in (seen, unseen):
        right = classifier.predict(photos[part], grid) == labels[part]
        accuracies.append(class_accuracy(right.T.astype(np.float64), labels[part]).mean(axis=0))
    return *accuracies, harmonic_mean(*accuracies), classifier.dimension
