"""Datasets, their formats, and batches."""

from hwnas.data.augmentation import Augmentation
from hwnas.data.batches import Batches, evaluation_batches
from hwnas.data.dataset import DATASETS, Dataset, Split, load_dataset, split_train

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "Dataset",
    "Split",
    "evaluation_batches",
    "load_dataset",
    "split_train",
]
