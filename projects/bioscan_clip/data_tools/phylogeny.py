"""An invented tree of insects: names, barcodes and traits that descend from one root."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from projects.bioscan_clip.data_tools.barcodes import ancestral_barcode, evolve
from projects.bioscan_clip.data_tools.names import NameMaker

PLAN_TRAITS = 12
PATTERN_TRAITS = 12

# Standard deviations of the step from a parent to its child, by the child's rank. Body plan is
# settled by order and family; colours and patterns go on changing down to the species.
_PLAN_STEPS = {"order": 1.0, "family": 0.8, "genus": 0.15, "species": 0.04}
_PATTERN_STEPS = {"order": 0.3, "family": 0.6, "genus": 0.9, "species": 0.35}

# Substitutions per base on the branch to a child. Two species of a genus are separated by two
# branches of the last kind, so they differ at 4 to 10 percent of sites.
_BRANCH_LENGTHS = {
    "order": (0.05, 0.07),
    "family": (0.04, 0.06),
    "genus": (0.03, 0.05),
    "species": (0.02, 0.05),
}


@dataclass
class Taxon:
    """A node of the tree.

    Attributes
    ----------
    lineage : tuple of str
        Names from the order down to this taxon.
    barcode : numpy.ndarray
        uint8 base codes, shape ``(BARCODE_COLUMNS,)``.
    traits : numpy.ndarray
        float64, shape ``(PLAN_TRAITS + PATTERN_TRAITS,)``, without unit, around 0.
    """

    lineage: tuple[str, ...]
    barcode: npt.NDArray[np.uint8]
    traits: npt.NDArray[np.float64] = field(
        default_factory=lambda: np.zeros(PLAN_TRAITS + PATTERN_TRAITS)
    )


def grow_species(n_species: int, rng: np.random.Generator) -> list[Taxon]:
    """Grow a tree and return its species.

    Parameters
    ----------
    n_species : int
        Number of species; 4 per genus, 3 genera per family and 3 families per order on average.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of Taxon
        The species, each with a lineage of four names.
    """
    names = NameMaker(rng)
    n_genera = max(2, n_species // 4)
    n_families = max(2, n_genera // 3)
    n_orders = max(2, n_families // 3)
    generation = [Taxon((), ancestral_barcode(rng))]
    for rank, size in zip(
        ("order", "family", "genus", "species"),
        (n_orders, n_families, n_genera, n_species),
        strict=True,
    ):
        # Every parent has a child; which parents have more is chance.
        extra = rng.integers(len(generation), size=size - len(generation))
        parents = np.sort(np.concatenate([np.arange(len(generation)), extra]))
        generation = [_child(generation[parent], rank, names, rng) for parent in parents]
    return generation


def _child(parent: Taxon, rank: str, names: NameMaker, rng: np.random.Generator) -> Taxon:
    steps = np.repeat([_PLAN_STEPS[rank], _PATTERN_STEPS[rank]], [PLAN_TRAITS, PATTERN_TRAITS])
    return Taxon(
        lineage=(*parent.lineage, names.make(rank, parent.lineage)),
        barcode=evolve(parent.barcode, rng.uniform(*_BRANCH_LENGTHS[rank]), rng),
        traits=parent.traits + rng.normal(size=len(steps)) * steps,
    )
