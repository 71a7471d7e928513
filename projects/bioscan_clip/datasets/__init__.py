"""HDF5 in, training examples out."""

from projects.bioscan_clip.datasets.hdf5 import BadRowError, HDF5Split
from projects.bioscan_clip.datasets.specimens import BIOSCANInsectDataset
from projects.bioscan_clip.datasets.tokenizer import KmerTokenizer
from projects.bioscan_clip.datasets.transforms import evaluation_transform, training_transform

__all__ = [
    "BIOSCANInsectDataset",
    "BadRowError",
    "HDF5Split",
    "KmerTokenizer",
    "evaluation_transform",
    "training_transform",
]
