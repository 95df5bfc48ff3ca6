"""Datasets: readers of file formats, generated data, training batches and augmentation.

The names are imported when they are first used, so that the readers of single files can be used
without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.data.augmentation import Augmentation
    from hwnas.data.batches import Batches, evaluation_batches
    from hwnas.data.dataset import Dataset, Split, split_train
    from hwnas.data.loading import DATASETS, load_dataset
    from hwnas.data.normalisation import Normalisation
    from hwnas.data.own_data import dataset_of

_MODULES = {
    "DATASETS": "hwnas.data.loading",
    "Augmentation": "hwnas.data.augmentation",
    "Batches": "hwnas.data.batches",
    "Dataset": "hwnas.data.dataset",
    "Normalisation": "hwnas.data.normalisation",
    "Split": "hwnas.data.dataset",
    "dataset_of": "hwnas.data.own_data",
    "evaluation_batches": "hwnas.data.batches",
    "load_dataset": "hwnas.data.loading",
    "split_train": "hwnas.data.dataset",
}

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "Dataset",
    "Normalisation",
    "Split",
    "dataset_of",
    "evaluation_batches",
    "load_dataset",
    "split_train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hwnas.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
