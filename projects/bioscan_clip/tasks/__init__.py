"""What runs on top of encoders and data: pretraining, and taxonomic classification."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projects.bioscan_clip.scoring.evaluation import evaluate_embeddings
    from projects.bioscan_clip.tasks.losses import (
        ChunkedContrastiveLoss,
        LabelAwareContrastiveLoss,
    )
    from projects.bioscan_clip.tasks.pretraining import BioscanPretraining
    from projects.bioscan_clip.tasks.taxonomic_classification import TaxonomicClassification

__all__ = [
    "BioscanPretraining",
    "ChunkedContrastiveLoss",
    "LabelAwareContrastiveLoss",
    "TaxonomicClassification",
    "evaluate_embeddings",
]

_HOMES = {
    "BioscanPretraining": "tasks.pretraining",
    "ChunkedContrastiveLoss": "tasks.losses",
    "LabelAwareContrastiveLoss": "tasks.losses",
    "TaxonomicClassification": "tasks.taxonomic_classification",
    "evaluate_embeddings": "scoring.evaluation",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: mmlearn, which some need, takes seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"projects.bioscan_clip.{_HOMES[name]}"), name)
