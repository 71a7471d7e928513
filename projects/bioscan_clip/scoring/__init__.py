"""Embeddings and labels in, neighbours and numbers out; needs neither Lightning nor mmlearn."""

from projects.bioscan_clip.scoring.evaluation import evaluate_embeddings
from projects.bioscan_clip.scoring.neighbours import nearest_keys
from projects.bioscan_clip.scoring.specimens import Specimens

__all__ = ["Specimens", "evaluate_embeddings", "nearest_keys"]
