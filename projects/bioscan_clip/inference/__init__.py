"""A trained model as a tool: embeddings of photos and barcodes as they come, and their names.

Names are imported when they are asked for: encoders take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "barcodes": ["BarcodePlacer", "PreparedBarcode"],
        "identify": ["Queries"],
        "library": ["ReferenceLibrary"],
        "model": ["Encoded", "Model", "load_model"],
    },
)
