"""What runs on top of encoders and data: pretraining, and taxonomic classification."""

from projects.bioscan_clip.tasks.evaluation import Embeddings, evaluate_embeddings
from projects.bioscan_clip.tasks.losses import LabelAwareContrastiveLoss
from projects.bioscan_clip.tasks.pretraining import BioscanPretraining
from projects.bioscan_clip.tasks.search import nearest_keys
from projects.bioscan_clip.tasks.taxonomic_classification import TaxonomicClassification

__all__ = [
    "BioscanPretraining",
    "Embeddings",
    "LabelAwareContrastiveLoss",
    "TaxonomicClassification",
    "evaluate_embeddings",
    "nearest_keys",
]
