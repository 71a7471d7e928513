"""What features, splits and pairs are called on a page."""

from collections.abc import Iterable
from typing import Final

from projects.bioscan_clip.reports.plot import SEEN, UNSEEN

FEATURES: Final = {
    "rgb": "photo",
    "dna": "barcode",
    "text": "name",
    "averaged": "both, mean",
    "concatenated": "both, joined",
    "all": "any",
    "is_du": "photo or barcode (IS+DU)",
    "linear_du": "linear head or barcode",
}
SPLITS: Final = {"seen": SEEN, "unseen": UNSEEN}
"""Colours of the splits of queries."""

SYMBOLS: Final = {"seen": "circle", "unseen": "diamond"}

MAIN_PAIRS: Final = (("rgb", "dna"), ("rgb", "rgb"), ("dna", "dna"))
"""The pairs that papers report."""

Pair = tuple[str, str]


def pair_name(pair: Pair) -> str:
    """Return for instance "photo → barcode"."""
    query, key = pair
    return f"{FEATURES.get(query, query)} → {FEATURES.get(key, key)}"


def in_order(pairs: Iterable[Pair]) -> list[Pair]:
    """Return distinct pairs, those that papers report first, then as `FEATURES` has them."""
    position = {feature: place for place, feature in enumerate(FEATURES)}

    def place(pair: Pair) -> tuple[int, ...]:
        main = MAIN_PAIRS.index(pair) if pair in MAIN_PAIRS else len(MAIN_PAIRS)
        return (main, *(position.get(feature, len(position)) for feature in pair))

    return sorted(set(pairs), key=place)
