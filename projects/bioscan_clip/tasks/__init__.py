"""What runs on top of encoders and data: pretraining, and taxonomic classification.

Names are imported when they are asked for: mmlearn, which some need, takes seconds to import.
"""

import lazy_loader

from projects.bioscan_clip.scoring.evaluation import evaluate_embeddings  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "hierarchical_loss": ["HierarchicalContrastiveLoss"],
        "losses": ["ChunkedContrastiveLoss", "LabelAwareContrastiveLoss"],
        "siglip_loss": ["SigLIPLoss"],
        "pretraining": ["BioscanPretraining"],
        "taxonomic_classification": ["TaxonomicClassification"],
    },
)
