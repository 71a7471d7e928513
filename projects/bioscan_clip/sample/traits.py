"""What an insect looks like, as numbers that evolve down a taxonomy like its barcode does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

TraitArray = npt.NDArray[np.float64]


class Trait(NamedTuple):
    """Range of a trait, and its standard deviation at each step of the tree as a share of it."""

    low: float
    high: float
    drift: Mapping[str, float]


_FILE: Any = yaml.safe_load(Path(__file__).with_name("traits.yaml").read_text("utf-8"))
TRAITS: Final = {
    name: Trait(low, high, _FILE["drifts"][drift])
    for name, (low, high, drift) in _FILE["traits"].items()
}


def evolve_traits(
    orders: Sequence[str], parents: Sequence[npt.NDArray[np.int64]], rng: np.random.Generator
) -> TraitArray:
    """Evolve the appearance of every species from the ground plan of its order.

    Parameters
    ----------
    orders : sequence of str
        Names of the orders.
    parents, rng
        As for :func:`~projects.bioscan_clip.sample.barcodes.evolve_barcodes`.

    Returns
    -------
    numpy.ndarray
        float64, shape ``(n_species, n_traits)``: traits in the order of ``TRAITS``, each as its
        place between 0 and 1 in its range.
    """
    values = np.stack([_ground_plan(order) for order in orders])
    for step, parent in zip(("family", "genus", "species"), parents, strict=True):
        values = _perturb(values[parent], step, rng)
    return values


def express_traits(species: TraitArray, rng: np.random.Generator) -> dict[str, float]:
    """Return the traits of one specimen in their own units, a little off those of its species.

    Parameters
    ----------
    species : numpy.ndarray
        One row of :func:`evolve_traits`, float64, shape ``(n_traits,)``.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    dict of str to float
        Trait by name.
    """
    values = _perturb(species, "specimen", rng).tolist()
    return {
        name: trait.low + value * (trait.high - trait.low)
        for (name, trait), value in zip(TRAITS.items(), values, strict=True)
    }


def _ground_plan(order: str) -> TraitArray:
    plan = _FILE["ground_plans"][order]
    return np.array(
        [
            (plan[name] - trait.low) / (trait.high - trait.low) if name in plan else 0.5
            for name, trait in TRAITS.items()
        ]
    )


def _perturb(values: TraitArray, step: str, rng: np.random.Generator) -> TraitArray:
    """Take one random step, reflected at the ends of each trait's range."""
    spread = np.array([trait.drift[step] for trait in TRAITS.values()])
    moved = np.abs(values + spread * rng.standard_normal(values.shape))
    reflected: TraitArray = np.clip(1 - np.abs(1 - moved), 0, 1)
    return reflected
