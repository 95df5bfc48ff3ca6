"""The table of a configuration on what counts in learning: the score and the weights of classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hwnas.config.base import Section

ClassMetric = Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc"]
"""The metrics that can be the score of a classification."""
ClassWeights = Literal["equal", "balanced"]
"""What a sample of each class counts in the loss."""


class TaskConfig(Section):
    """What counts, where the task leaves a choice: tasks with one class for each sample."""

    metric: ClassMetric | None = Field(
        None,
        description="the score that ranks networks and is held to the gates; by default accuracy",
    )
    class_weights: ClassWeights = Field(
        "equal",
        description="weight of a sample in the loss: equal, or in inverse proportion to the number "
        "of training samples of its class (balanced)",
    )
