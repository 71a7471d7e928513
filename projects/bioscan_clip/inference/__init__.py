"""A trained model as a tool: embeddings of photos, barcodes and names as they come."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projects.bioscan_clip.inference.barcodes import BarcodePlacer, PreparedBarcode
    from projects.bioscan_clip.inference.model import Encoded, Model, load_model

__all__ = ["BarcodePlacer", "Encoded", "Model", "PreparedBarcode", "load_model"]

_HOMES = {
    "BarcodePlacer": "barcodes",
    "Encoded": "model",
    "Model": "model",
    "PreparedBarcode": "barcodes",
    "load_model": "model",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: encoders take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
