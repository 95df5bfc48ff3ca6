"""Machine learning tasks by name: the loss, the metrics and the network head of each."""

from __future__ import annotations

from hwnas.data import Dataset
from hwnas.tasks.base import Loss, Meter, Task
from hwnas.tasks.classification import (
    AudioKeywords,
    ImageClassification,
    SignalClassification,
    TableClassification,
    TextClassification,
)
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
        SignalClassification,
        TableClassification,
        LanguageModelling,
        Regression,
        Segmentation,
        Detection,
    )
}


def task_of(dataset: Dataset) -> Task:
    """Return the task of a dataset.

    Raises:
        InputError: the training targets do not suit the task, such as a single class.
    """
    return TASKS[dataset.task](dataset)


__all__ = ["TASKS", "Loss", "Meter", "Task", "task_of"]
