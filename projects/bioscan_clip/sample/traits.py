"""What an insect looks like, as numbers that evolve down a taxonomy like its barcode does."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

TraitArray = npt.NDArray[np.float64]


class Drift(NamedTuple):
    """Standard deviation of a trait at each step of the tree, as a share of the trait's range."""

    family: float
    genus: float
    species: float
    specimen: float


_PLAN = Drift(0.0, 0.0, 0.0, 0.0)
_SHAPE = Drift(0.15, 0.08, 0.03, 0.02)
_COLOUR = Drift(0.14, 0.13, 0.05, 0.035)
_PATTERN = Drift(0.18, 0.15, 0.07, 0.025)


class Trait(NamedTuple):
    """Range of a trait, and how fast it evolves."""

    low: float
    high: float
    drift: Drift


# Lengths are shares of the body's length, angles are degrees away from the tail.
TRAITS: Final[Mapping[str, Trait]] = {
    "wing_pairs": Trait(1, 2, _PLAN),
    "wing_case": Trait(0, 1, _PLAN),  # fore wings that cover the abdomen like a lid
    "scutellum": Trait(0, 0.3, _PLAN),
    "head_width": Trait(0.10, 0.34, _SHAPE),
    "head_length": Trait(0.09, 0.20, _SHAPE),
    "eye_size": Trait(0.25, 0.75, _SHAPE),
    "rostrum": Trait(-0.3, 0.3, _SHAPE),
    "thorax_width": Trait(0.12, 0.46, _SHAPE),
    "thorax_length": Trait(0.18, 0.40, _SHAPE),
    "waist": Trait(-0.05, 0.15, _SHAPE),
    "abdomen_width": Trait(0.07, 0.52, _SHAPE),
    "abdomen_peak": Trait(0.25, 0.75, _SHAPE),
    "abdomen_taper": Trait(0.6, 1.7, _SHAPE),
    "tail": Trait(-0.5, 0.7, _SHAPE),
    "antenna_length": Trait(0.12, 1.0, _SHAPE),
    "antenna_spread": Trait(12, 60, _SHAPE),
    "antenna_club": Trait(-0.04, 0.05, _SHAPE),
    "leg_length": Trait(0.25, 1.0, _SHAPE),
    "leg_width": Trait(0.014, 0.045, _SHAPE),
    "hind_leg": Trait(0.9, 1.8, _SHAPE),
    "hair": Trait(-0.6, 1.0, _SHAPE),
    "fore_wing_length": Trait(0.45, 1.15, _SHAPE),
    "fore_wing_width": Trait(0.12, 0.70, _SHAPE),
    "fore_wing_angle": Trait(2, 100, _SHAPE),
    "fore_wing_peak": Trait(0.4, 0.8, _SHAPE),
    "hind_wing_length": Trait(0.5, 1.1, _SHAPE),  # share of the fore wing's
    "hind_wing_width": Trait(0.5, 1.4, _SHAPE),
    "wing_opacity": Trait(0.15, 1.0, _PLAN),
    "wing_veins": Trait(3, 9, _SHAPE),
    "body_hue": Trait(0.0, 0.45, _COLOUR),
    "body_saturation": Trait(0.15, 0.75, _COLOUR),
    "body_value": Trait(0.12, 0.62, _COLOUR),
    "accent_hue": Trait(0.0, 0.19, _COLOUR),
    "accent_value": Trait(0.25, 0.95, _COLOUR),
    "head_accent": Trait(-0.3, 0.8, _COLOUR),
    "thorax_accent": Trait(-0.3, 0.8, _COLOUR),
    "leg_accent": Trait(0.0, 1.0, _COLOUR),
    "eye_hue": Trait(-0.12, 0.25, _COLOUR),
    "gloss": Trait(0.0, 1.0, _COLOUR),
    "wing_hue": Trait(0.02, 0.25, _COLOUR),
    "wing_saturation": Trait(0.05, 0.65, _COLOUR),
    "wing_value": Trait(0.25, 0.92, _COLOUR),
    "abdomen_bands": Trait(2, 7, _PATTERN),
    "abdomen_band_width": Trait(-0.4, 0.75, _PATTERN),
    "thorax_stripes": Trait(-0.15, 0.22, _PATTERN),
    "wing_bands": Trait(0.5, 3.5, _PATTERN),
    "wing_band_width": Trait(-0.15, 0.22, _PATTERN),
    "wing_band_start": Trait(0.15, 0.6, _PATTERN),
    "wing_spots": Trait(-3, 6, _PATTERN),
    "wing_spot_size": Trait(0.04, 0.16, _PATTERN),
    "wing_spot_row": Trait(-0.6, 0.6, _PATTERN),
    "wing_margin": Trait(-0.2, 0.25, _PATTERN),
}

# The ground plan of each order: where its families start from. Traits not named start mid-range.
_GROUND_PLANS: Final[Mapping[str, Mapping[str, float]]] = {
    "Diptera": {
        "wing_pairs": 1, "wing_case": 0, "scutellum": 0, "wing_opacity": 0.3,
        "head_width": 0.27, "head_length": 0.13, "eye_size": 0.7, "rostrum": -0.15,
        "thorax_width": 0.32, "thorax_length": 0.33, "waist": 0.08, "abdomen_width": 0.28,
        "abdomen_peak": 0.4, "abdomen_taper": 1.1, "tail": -0.4, "antenna_length": 0.2,
        "antenna_club": -0.03, "leg_length": 0.6, "leg_width": 0.022, "hind_leg": 1.15,
        "hair": 0.2, "fore_wing_length": 0.85, "fore_wing_width": 0.32, "fore_wing_angle": 38,
        "fore_wing_peak": 0.65, "body_value": 0.3, "body_hue": 0.07, "wing_value": 0.75,
        "wing_bands": 1, "wing_band_width": -0.08, "wing_spots": -1.5, "wing_margin": -0.1,
    },
    "Hymenoptera": {
        "wing_pairs": 2, "wing_case": 0, "scutellum": 0, "wing_opacity": 0.3,
        "head_width": 0.22, "head_length": 0.13, "eye_size": 0.45, "rostrum": -0.2,
        "thorax_width": 0.23, "thorax_length": 0.31, "waist": -0.01, "abdomen_width": 0.24,
        "abdomen_peak": 0.5, "abdomen_taper": 0.9, "tail": 0.1, "antenna_length": 0.5,
        "antenna_club": -0.02, "leg_length": 0.5, "leg_width": 0.028, "hind_leg": 1.35,
        "hair": -0.1, "fore_wing_length": 0.75, "fore_wing_width": 0.25, "fore_wing_angle": 62,
        "fore_wing_peak": 0.68, "hind_wing_length": 0.7, "hind_wing_width": 0.8,
        "body_value": 0.22, "body_hue": 0.06, "accent_value": 0.8, "abdomen_band_width": 0.35,
        "wing_value": 0.7, "wing_band_width": -0.1, "wing_spots": -2, "wing_margin": -0.1,
    },
    "Coleoptera": {
        "wing_pairs": 1, "wing_case": 1, "scutellum": 0.06, "wing_opacity": 1.0,
        "head_width": 0.2, "head_length": 0.12, "eye_size": 0.4, "rostrum": 0.0,
        "thorax_width": 0.34, "thorax_length": 0.24, "waist": 0.14, "abdomen_width": 0.40,
        "abdomen_peak": 0.42, "abdomen_taper": 0.75, "tail": -0.5, "antenna_length": 0.4,
        "antenna_club": 0.015, "leg_length": 0.45, "leg_width": 0.032, "hind_leg": 1.1,
        "hair": -0.4, "body_value": 0.3, "body_hue": 0.08, "gloss": 0.75, "wing_value": 0.45,
        "wing_saturation": 0.45, "wing_spots": 1.0, "wing_band_width": 0.0,
    },
    "Lepidoptera": {
        "wing_pairs": 2, "wing_case": 0, "scutellum": 0, "wing_opacity": 0.97,
        "head_width": 0.16, "head_length": 0.11, "eye_size": 0.5, "rostrum": -0.1,
        "thorax_width": 0.22, "thorax_length": 0.28, "waist": 0.12, "abdomen_width": 0.18,
        "abdomen_peak": 0.35, "abdomen_taper": 1.1, "tail": -0.4, "antenna_length": 0.5,
        "antenna_club": 0.01, "leg_length": 0.35, "leg_width": 0.018, "hind_leg": 1.1,
        "hair": 0.5, "fore_wing_length": 0.92, "fore_wing_width": 0.52, "fore_wing_angle": 76,
        "fore_wing_peak": 0.72, "hind_wing_length": 0.75, "hind_wing_width": 1.15,
        "body_value": 0.35, "body_hue": 0.08, "gloss": 0.15, "wing_value": 0.65,
        "wing_saturation": 0.4, "wing_spots": 2, "wing_band_width": 0.07, "wing_margin": 0.05,
    },
    "Hemiptera": {
        "wing_pairs": 1, "wing_case": 1, "scutellum": 0.24, "wing_opacity": 0.85,
        "head_width": 0.17, "head_length": 0.12, "eye_size": 0.5, "rostrum": -0.1,
        "thorax_width": 0.38, "thorax_length": 0.22, "waist": 0.15, "abdomen_width": 0.38,
        "abdomen_peak": 0.35, "abdomen_taper": 1.2, "tail": -0.45, "antenna_length": 0.6,
        "antenna_club": -0.03, "leg_length": 0.65, "leg_width": 0.022, "hind_leg": 1.3,
        "hair": -0.5, "body_value": 0.4, "body_hue": 0.11, "gloss": 0.35, "wing_value": 0.55,
        "wing_spots": -1, "wing_margin": 0.05, "wing_band_width": -0.02,
    },
    "Odonata": {
        "wing_pairs": 2, "wing_case": 0, "scutellum": 0, "wing_opacity": 0.25,
        "head_width": 0.2, "head_length": 0.1, "eye_size": 0.75, "rostrum": -0.3,
        "thorax_width": 0.17, "thorax_length": 0.22, "waist": 0.1, "abdomen_width": 0.09,
        "abdomen_peak": 0.5, "abdomen_taper": 0.6, "tail": -0.3, "antenna_length": 0.12,
        "antenna_club": -0.04, "leg_length": 0.3, "leg_width": 0.018, "hind_leg": 1.1,
        "hair": -0.6, "fore_wing_length": 0.75, "fore_wing_width": 0.18, "fore_wing_angle": 88,
        "hind_wing_length": 0.97, "hind_wing_width": 1.15, "body_hue": 0.25, "wing_value": 0.8,
        "wing_spots": -1.5, "wing_band_width": -0.1,
    },
}  # fmt: skip


def evolve_traits(
    orders: Sequence[str], parents: Sequence[npt.NDArray[np.int64]], rng: np.random.Generator
) -> TraitArray:
    """Evolve the appearance of every species from the ground plan of its order.

    Parameters
    ----------
    orders : sequence of str
        Names of the orders.
    parents : sequence of numpy.ndarray
        Parents of families, genera and species; see ``Taxonomy.parents``.
    rng : numpy.random.Generator
        Source of chance.

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
    plan = _GROUND_PLANS[order]
    return np.array(
        [
            (plan[name] - trait.low) / (trait.high - trait.low) if name in plan else 0.5
            for name, trait in TRAITS.items()
        ]
    )


def _perturb(values: TraitArray, step: str, rng: np.random.Generator) -> TraitArray:
    """Take one random step, reflected at the ends of each trait's range."""
    spread = np.array([getattr(trait.drift, step) for trait in TRAITS.values()])
    moved = np.abs(values + spread * rng.standard_normal(values.shape))
    reflected: TraitArray = np.clip(1 - np.abs(1 - moved), 0, 1)
    return reflected
