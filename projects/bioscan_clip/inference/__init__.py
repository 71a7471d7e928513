"""A trained model as a tool: embeddings of photos and barcodes as they come, and their names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projects.bioscan_clip.inference.barcodes import BarcodePlacer, PreparedBarcode
    from projects.bioscan_clip.inference.identify import Queries
    from projects.bioscan_clip.inference.library import ReferenceLibrary
    from projects.bioscan_clip.inference.model import Encoded, Model, load_model

__all__ = [
    "BarcodePlacer",
    "Encoded",
    "Model",
    "PreparedBarcode",
    "Queries",
    "ReferenceLibrary",
    "load_model",
]

_HOMES = {
    "BarcodePlacer": "barcodes",
    "Encoded": "model",
    "Model": "model",
    "PreparedBarcode": "barcodes",
    "Queries": "identify",
    "ReferenceLibrary": "library",
    "load_model": "model",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: encoders take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
