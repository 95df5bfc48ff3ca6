"""Machine learning tasks by name: the loss, the metrics and the network head of each."""

from __future__ import annotations

from hwnas.config import TaskConfig
from hwnas.data import Dataset
from hwnas.tasks.base import Loss, Meter, Task
from hwnas.tasks.classification import (
    AudioKeywords,
    ImageClassification,
    MultiInputClassification,
    SignalClassification,
    TableClassification,
    TextClassification,
)
from hwnas.tasks.detection import Detection
from hwnas.tasks.generation import ImageGeneration
from hwnas.tasks.language import LanguageModelling
from hwnas.tasks.reading import NextReply, QuestionAnswering
from hwnas.tasks.regression import Regression
from hwnas.tasks.segmentation import Segmentation
from hwnas.tasks.sequence_labelling import SequenceLabelling

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        ImageClassification,
        AudioKeywords,
        TextClassification,
        SignalClassification,
        TableClassification,
        LanguageModelling,
        QuestionAnswering,
        NextReply,
        Regression,
        Segmentation,
        Detection,
        ImageGeneration,
    )
}
"""The tasks of the networks of all search spaces."""
OWN_TASKS: dict[str, type[Task]] = {
    task.name: task for task in (MultiInputClassification, SequenceLabelling)
}
"""Tasks of networks of one's own alone: no shipped space has such inputs or outputs."""


DEFAULTS = TaskConfig()


def task_of(dataset: Dataset, settings: TaskConfig = DEFAULTS) -> Task:
    """Return the task of a dataset.

    Args:
        dataset: the data.
        settings: what counts, where the task leaves a choice.

    Raises:
        InputError: the training targets do not suit the task, such as a single class, or the task
            has another score than the settings ask for.
    """
    task = (TASKS | OWN_TASKS)[dataset.task](dataset)
    if settings != DEFAULTS:
        task.choose(settings)
    return task


__all__ = ["OWN_TASKS", "TASKS", "Loss", "Meter", "Task", "task_of"]
