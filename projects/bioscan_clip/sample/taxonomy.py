"""An invented tree of life: orders, families, genera and species with Latin-looking names."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

ORDERS: Final = ("Diptera", "Hymenoptera", "Coleoptera", "Lepidoptera", "Hemiptera", "Odonata")
"""Real orders, so that their body plans are known."""

_ONSETS = ("b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v")
_CLUSTERS = ("br", "ch", "cr", "dr", "gl", "ph", "pl", "pt", "st", "th", "tr", "x")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("l", "m", "n", "r", "s")
_GENUS_ENDINGS = ("a", "us", "is", "ia", "ella", "ops", "odes", "on")
_EPITHET_ENDINGS = ("us", "a", "is", "ensis", "atus", "ata", "osa", "inus", "ella", "oides")


@dataclass(frozen=True)
class Taxonomy:
    """Taxa of each rank and what they belong to.

    Attributes
    ----------
    names : tuple of tuple of str
        Taxa at order, family, genus and species, in this order.
    parents : tuple of numpy.ndarray
        int64; for families, genera and species, the position of each one's parent among the taxa of
        the rank above.
    """

    names: tuple[tuple[str, ...], ...]
    parents: tuple[IntArray, IntArray, IntArray]

    def lineages(self) -> IntArray:
        """Return the ancestors of every species.

        Returns
        -------
        numpy.ndarray
            int64, shape ``(n_species, 4)``: positions of order, family, genus and species.
        """
        columns = [np.arange(len(self.names[-1]))]
        for parents in reversed(self.parents):
            columns.insert(0, parents[columns[0]])
        return np.stack(columns, axis=1)


def grow_taxonomy(n_species: int, rng: np.random.Generator) -> Taxonomy:
    """Invent a taxonomy in which rich genera and families are few, as in nature.

    Parameters
    ----------
    n_species : int
        Number of species, at least 12.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Taxonomy
        No name occurs twice at any rank.
    """
    n_orders = min(len(ORDERS), 3 + n_species // 100)
    n_families = n_orders + n_species // 20
    n_genera = n_families + n_species // 5
    parents = (
        _draw_parents(n_orders, n_families, rng),
        _draw_parents(n_families, n_genera, rng),
        _draw_parents(n_genera, n_species, rng),
    )
    stems = _distinct_stems(n_genera, rng)
    genera = tuple(stem + str(rng.choice(_GENUS_ENDINGS)) for stem in stems)
    # A family is named after one of its genera, as the code of nomenclature asks.
    first_genus = np.unique(parents[1], return_index=True)[1]
    families = tuple(f"{stems[genus]}idae" for genus in first_genus)
    epithets = [
        stem.lower() + str(rng.choice(_EPITHET_ENDINGS)) for stem in _distinct_stems(n_species, rng)
    ]
    species = tuple(
        f"{genera[g]} {epithet}" for g, epithet in zip(parents[2], epithets, strict=True)
    )
    return Taxonomy((ORDERS[:n_orders], families, genera, species), parents)


def _draw_parents(n_parents: int, n_children: int, rng: np.random.Generator) -> IntArray:
    """Give every parent one child, and the remaining children to parents of uneven richness."""
    richness = rng.dirichlet(np.full(n_parents, 5.0))
    others = rng.choice(n_parents, n_children - n_parents, p=richness)
    return np.sort(np.concatenate([np.arange(n_parents), others]))


def _syllables() -> tuple[list[str], list[str]]:
    """Return open syllables (``me``), which start a stem, and closed ones (``lan``)."""
    onsets = (*_ONSETS, *_CLUSTERS)
    starts = [onset + vowel for onset in onsets for vowel in _VOWELS]
    ends = [onset + vowel + coda for onset in _ONSETS for vowel in _VOWELS for coda in _CODAS]
    return starts, ends


def _distinct_stems(count: int, rng: np.random.Generator) -> list[str]:
    """Return capitalised stems such as ``Melan``."""
    starts, ends = _syllables()
    stems: dict[str, None] = {}
    while len(stems) < count:
        stem = str(rng.choice(starts)) + str(rng.choice(ends))
        stems[stem.capitalize()] = None
    return list(stems)
