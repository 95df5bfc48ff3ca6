"""Evaluation of architectures by training each from scratch for a few epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Batches, Split
from hwnas.evaluators.recipes import Recipe, Recipes, with_recipe
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
        known: best scores at full fidelity so far; without recipes, their architectures are not
            trained again.
        perfect: the highest possible score.
        recipes: proposes settings for each training, and learns from its score; None trains all
            with those of `config`.
        batches_of: the training batches of other settings, where recipes are searched.
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
    recipes: Recipes | None = None
    batches_of: Callable[[TrainConfig], Batches] | None = None

    def __call__(self, architecture: Architecture, fidelity: float = 1.0) -> float:
        """Return the task's score, 0 to 1; 0 if the training diverges.

        Args:
            architecture: the architecture to train.
            fidelity: fraction of the epochs, rounded to at least one; the learning rate schedule
                is shortened accordingly.

        Raises:
            Interrupted: a signal was received; the unfinished training is lost.
        """
        if self.recipes is not None:
            return self._with_new_recipe(self.recipes, architecture, fidelity)
        epochs = max(1, round(fidelity * self.config.epochs))
        if epochs < self.config.epochs:
            shorter = self.config.model_copy(update={"epochs": epochs})
            return self._trained(architecture, shorter, self.training)
        if architecture not in self.known:
            self.known[architecture] = self._trained(architecture, self.config, self.training)
        return self.known[architecture]

    def _with_new_recipe(
        self, recipes: Recipes, architecture: Architecture, fidelity: float
    ) -> float:
        """Train with a proposed recipe, or with that of a shorter training that goes on."""
        chosen = tuple(self.space.chosen(architecture))
        recipe = recipes.longer(chosen, fidelity)
        recipe = recipes.ask() if recipe is None else recipe
        score = self._by_recipe(architecture, recipe, fidelity)
        recipes.tell(recipe, score, fidelity, chosen)
        if fidelity == 1:
            self.known[architecture] = max(score, self.known.get(architecture, 0.0))
        return score

    def _by_recipe(self, architecture: Architecture, recipe: Recipe, fidelity: float) -> float:
        assert self.batches_of is not None
        config = with_recipe(self.config, recipe)
        epochs = max(1, round(fidelity * config.epochs))
        config = config.model_copy(update={"epochs": epochs})
        return self._trained(architecture, config, self.batches_of(config))

    def _trained(self, architecture: Architecture, config: TrainConfig, batches: Batches) -> float:
        torch.manual_seed(self.seed)
        network = self.space.network(architecture)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        work = Training(network, config, batches, self.seed, self.task.loss)
        try:
            while work.step < work.steps:
                interruption.stop_if_requested()
                work.advance()
        except DivergedError:
            return 0.0
        found = predictions(work.average, self.validation, self.task.dataset, self.device)
        return self.task.score(found)

    def rank(self, architectures: list[Architecture]) -> list[float]:
        """Return the score of each architecture; with recipes, of those unknown with the best."""
        if self.recipes is not None:
            for architecture in architectures:
                if architecture not in self.known:
                    score = self._by_recipe(architecture, self.recipes.best, 1.0)
                    self.known[architecture] = score
            return [self.known[architecture] for architecture in architectures]
        return [self(architecture) for architecture in architectures]
