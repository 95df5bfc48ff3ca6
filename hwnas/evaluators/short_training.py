"""Evaluation of architectures by training each from scratch for a few epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Batches, Split
from hwnas.runs import interruption
from hwnas.spaces.base import SearchSpace
from hwnas.tasks import Task
from hwnas.training.evaluate import predictions
from hwnas.training.train import DivergedError, Training


@dataclass
class ShortTraining:
    """Scores architectures by their validation score after a short training.

    Attributes:
        space: the search space at the sizes that are trained.
        config: settings of the training, with its small number of epochs.
        training: training batches.
        validation: the samples on which trained networks are scored.
        task: the task.
        seed: seed of the initial weights and of random choices during training.
        device: device on which the networks are trained.
        known: scores at full fidelity so far; their architectures are not trained again.
        perfect: the highest possible score.
    """

    space: SearchSpace
    config: TrainConfig
    training: Batches
    validation: Split
    task: Task
    seed: int
    device: torch.device
    known: dict[Architecture, float] = field(default_factory=dict)
    perfect: float = 1.0

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the task's score, 0 to 1; 0 if the training diverges.

        Args:
            architecture: the architecture to train.
            fidelity: fraction of the epochs, rounded to at least one; the learning rate schedule
                is shortened accordingly.

        Raises:
            Interrupted: a signal was received; the unfinished training is lost.
        """
        epochs = max(1, round(fidelity * self.config.epochs))
        if epochs < self.config.epochs:
            return self._trained(architecture, epochs)
        if architecture not in self.known:
            self.known[architecture] = self._trained(architecture, epochs)
        return self.known[architecture]

    def _trained(self, architecture: Architecture, epochs: int) -> float:
        torch.manual_seed(self.seed)
        network = self.space.network(architecture)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        config = self.config.model_copy(update={"epochs": epochs})
        work = Training(network, config, self.training, self.seed, self.task.loss)
        try:
            while work.step < work.steps:
                interruption.stop_if_requested()
                work.advance()
        except DivergedError:
            return 0.0
        found = predictions(work.average, self.validation, self.task.dataset, self.device)
        return self.task.score(found)

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return the score of each architecture."""
        return [self(architecture) for architecture in architectures]
