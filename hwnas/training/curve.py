"""Scores on fixed samples during a training, which show how well the network generalises.

A run trains on all training samples, since the architecture is fixed by then, and reports the score
on the test samples. To hold out further samples would change the trained weights. The curve
therefore compares the score on a fixed random subset of the training samples with the score on a
fixed random subset of the test samples. It is recorded for readers only: training does not read it,
neither to stop early nor to choose among weights. Choosing a number of epochs by this curve would
make the final test score too optimistic.

Measuring uses the exponential moving average of the weights in evaluation mode, without gradients
and without random numbers, so that the trained weights are the same with and without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas.data import Batches, Split
from hwnas.tasks import Task
from hwnas.tasks.detection import Detection
from hwnas.tasks.generation import ImageGeneration
from hwnas.training.evaluate import predictions

MIN_SAMPLES, MAX_SAMPLES = 100, 1000
SHARE_OF_SAMPLES = 1 / 40
"""Each subset has this share of the number of training samples, within the limits above."""
SHARE_OF_WORK = 0.02
"""Measuring takes at most this share of the forward passes of the training, counted in samples."""
METRIC_PASSES = {Detection.name: 2.0, ImageGeneration.name: 2.0}
"""The work of a task's metric for a sample in forward passes, where it is not negligible."""
PASSES_OF_A_STEP = 3.0
"""Computation of a training step in forward passes; the backward pass takes about two."""


@dataclass(frozen=True)
class LearningCurve:
    """Measures the task's score on fixed subsets of the training and of the test samples.

    Attributes:
        task: gives the score.
        training, test: the subsets.
        every: steps between measurements, a whole number of epochs.
        steps_per_epoch: number of steps of an epoch.
    """

    task: Task
    training: Split
    test: Split
    every: int
    steps_per_epoch: int

    @classmethod
    def of(cls, task: Task, batches: Batches, batch_size: int, seed: int) -> LearningCurve:
        """Draw the subsets, and measure as often as `SHARE_OF_WORK` allows.

        Args:
            task: has the data.
            batches: batches of the training.
            batch_size: number of samples in a batch.
            seed: determines the subsets.
        """
        dataset = task.dataset
        wanted = round(SHARE_OF_SAMPLES * len(dataset.train))
        size = min(MAX_SAMPLES, max(MIN_SAMPLES, wanted))
        rng = np.random.default_rng(seed)
        training, test = (_subset(split, size, rng) for split in (dataset.train, dataset.test))
        steps = batches.steps_per_epoch
        epoch_work = PASSES_OF_A_STEP * steps * batch_size
        work = (1 + METRIC_PASSES.get(task.name, 0.0)) * (len(training) + len(test))
        epochs = math.ceil(work / (SHARE_OF_WORK * epoch_work))
        return cls(task, training, test, epochs * steps, steps)

    def steps(self, total: int) -> range:
        """The steps of a training of `total` steps after which the scores are measured."""
        return range(self.every, total + 1, self.every)

    def measure(self, network: nn.Module, step: int, device: torch.device) -> dict[str, Any]:
        """Return a record for the history: the epoch, both scores, the numbers of samples.

        Args:
            network: the network to evaluate, in evaluation mode.
            step: number of steps done.
            device: device of the network.
        """
        scores = {
            f"{name}_score": self.task.score(predictions(network, split, self.task.dataset, device))
            for name, split in (("train", self.training), ("test", self.test))
        }
        samples = {"train_samples": len(self.training), "test_samples": len(self.test)}
        return {"epoch": step // self.steps_per_epoch, **scores, **samples}


def _subset(split: Split, size: int, rng: np.random.Generator) -> Split:
    """Return at most `size` random samples, in the order of the split."""
    return split.take(np.sort(rng.permutation(len(split))[:size]))
