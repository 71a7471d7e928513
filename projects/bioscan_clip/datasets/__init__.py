"""HDF5 in, training examples out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projects.bioscan_clip.datasets.loader import SpecimenLoader
    from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
    from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer

__all__ = ["BIOSCANInsectDataset", "KmerTokenizer", "SpecimenLoader"]

_HOMES = {
    "BIOSCANInsectDataset": "specimens",
    "KmerTokenizer": "tokenizer",
    "SpecimenLoader": "loader",
}


def __getattr__(name: str) -> Any:
    """Import what users ask for when they ask, so that `datasets.schema` alone stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
