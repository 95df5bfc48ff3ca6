"""Tasks by name, one small file each: what is learned from a dataset."""

from __future__ import annotations

from hwnas.data import Dataset
from hwnas.tasks.base import Loss, Meter, Task
from hwnas.tasks.classification import AudioKeywords, ImageClassification, TextClassification
from hwnas.tasks.detection import Detection
from hwnas.tasks.language import LanguageModelling
from hwnas.tasks.regression import Regression
from hwnas.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ImageClassification,
        AudioKeywords,
        TextClassification,
        LanguageModelling,
        Regression,
        Segmentation,
        Detection,
    )
}


def task_of(dataset: Dataset) -> Task:
    """The task of a dataset.

    Raises:
        InputError: when there is nothing to learn from it.
    """
    return TASKS[dataset.task](dataset)


__all__ = ["TASKS", "Loss", "Meter", "Task", "task_of"]
