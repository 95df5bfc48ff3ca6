"""Architectures judged by training each from scratch for a few epochs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Batches, Split
from hwnas.runs import interruption
from hwnas.spaces.base import SearchSpace
from hwnas.tasks import Task
from hwnas.training.train import DivergedError, Training, predictions


@dataclass
class ShortTraining:
    """Validation score after a short training; each architecture is trained once.

    Attributes:
        space: at the sizes that are trained.
        config: of the training, with its few epochs.
        training: batches of the training half.
        validation: the half that judges.
        task: what is learned.
        seed: of weights and order.
        device: where it is trained.
        known: scores so far, of whole trainings.
        perfect: the score that cannot be surpassed.
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
        """The task's score, 0 to 1; 0 when the training diverged.

        Args:
            architecture: what is trained.
            fidelity: share of the epochs, at least one; the schedule ends with them.

        Raises:
            Interrupted: after a signal; the training so far is lost.
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
        """Score of each."""
        return [self(architecture) for architecture in architectures]
