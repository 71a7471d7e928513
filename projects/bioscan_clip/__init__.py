"""BIOSCAN-CLIP: insect photos, DNA barcodes and taxonomic names in one embedding space.

Importing this package registers the modality ``dna`` with mmlearn and does nothing else.
"""

import importlib.util
import sys
from pathlib import Path

_REGISTRY = "mmlearn.datasets.core.modalities"


def _register_dna() -> None:
    """Add ``dna`` to mmlearn's modalities without importing all of mmlearn.

    The registry is one small file, but importing it by name also runs its parent packages, which
    takes some 15 s. ``bioscan-clip --help`` should not wait for that, and ``bioscan-clip doctor``
    must also run where mmlearn is missing.
    """
    if _REGISTRY not in sys.modules:
        mmlearn = importlib.util.find_spec("mmlearn")
        if mmlearn is None or mmlearn.submodule_search_locations is None:
            return
        folder = Path(mmlearn.submodule_search_locations[0])
        spec = importlib.util.spec_from_file_location(
            _REGISTRY, folder / "datasets" / "core" / "modalities.py"
        )
        if spec is None or spec.loader is None:
            return
        module = importlib.util.module_from_spec(spec)
        sys.modules[_REGISTRY] = module
        spec.loader.exec_module(module)
    modalities = sys.modules[_REGISTRY].Modalities
    if not modalities.has_modality("dna"):
        modalities.register_modality("dna")


_register_dna()
