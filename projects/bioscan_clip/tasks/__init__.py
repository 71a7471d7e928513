"""What runs on top of encoders and data: pretraining, and taxonomic classification."""

from projects.bioscan_clip.tasks.losses import LabelAwareContrastiveLoss
from projects.bioscan_clip.tasks.pretraining import BioscanPretraining
from projects.bioscan_clip.tasks.scoring.embeddings import Embeddings
from projects.bioscan_clip.tasks.scoring.evaluation import evaluate_embeddings
from projects.bioscan_clip.tasks.scoring.search import nearest_keys
from projects.bioscan_clip.tasks.taxonomic_classification import TaxonomicClassification

__all__ = [
    "BioscanPretraining",
    "Embeddings",
    "LabelAwareContrastiveLoss",
    "TaxonomicClassification",
    "evaluate_embeddings",
    "nearest_keys",
]
