"""Datasets: readers of file formats, generated data, training batches and augmentation."""

from hwnas.data.augmentation import Augmentation
from hwnas.data.batches import Batches, evaluation_batches
from hwnas.data.dataset import Dataset, Split, split_train
from hwnas.data.loading import DATASETS, load_dataset

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
