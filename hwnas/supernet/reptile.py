"""Meta-training of a supernet's weights over several tasks, as a start for the search of a new one.

Nichol et al., "On First-Order Meta-Learning Algorithms", 2018 (arXiv 1803.02999), algorithm 1
(Reptile). In each round one task trains a copy of the weights for some steps, and the weights move
a part of the way to the result. With one step in a round this is joint training of all tasks, with
as many rounds as tasks and the whole way it is training on one task after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.config import SearchConfig
from hwnas.data import Batches
from hwnas.errors import HwnasError, InputError
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Supernet
from hwnas.supernet.sandwich import Sandwich
from hwnas.tasks import Loss
from hwnas.training.optimizer import build_optimizer

Propose = Callable[[int], Mixture]
"""Maps the number of a training step to the mixture that it trains."""


def random_paths(space: SearchSpace, seed: int) -> Propose:
    """A random architecture for each step, as strategies of single architectures train a supernet.

    Guo et al., "Single Path One-Shot NAS", ECCV 2020 (arXiv 1904.00420), section 3.3.
    """

    def propose(step: int) -> Mixture:
        return space.one_hot(space.sample(np.random.default_rng([seed, step])))

    return propose


def uniform_mixture(space: SearchSpace) -> Propose:
    """All options of a choice with equal weights: what strategies by gradients begin with."""
    weights = space.mask / space.mask.sum(dim=1, keepdim=True)
    return lambda step: Mixture(weights)


@dataclass
class TaskTraining:
    """The training of a supernet on one of the tasks.

    Attributes:
        supernet: at the sizes of the task's data; keeps the tensors that are the task's own.
        config: batch size, optimiser, learning rate and sandwich rule.
        batches: training batches by step.
        propose: what is trained.
        loss_of: maps outputs and targets to the loss.
    """

    supernet: Supernet
    config: SearchConfig
    batches: Batches
    propose: Propose
    loss_of: Loss

    def train(self, sandwich: Sandwich, first: int, steps: int) -> float:
        """Train with a new optimiser for some steps; the mean loss.

        Args:
            sandwich: computes the losses of a step.
            first: number of steps that the task was trained for before.
            steps: number of steps.
        """
        optimizer = build_optimizer(self.supernet, self.config)
        self.supernet.train()
        total = 0.0
        for step in range(first, first + steps):
            batch = self.batches.batch(step)
            optimizer.zero_grad(set_to_none=True)
            mixture = self.propose(step).to(batch[1].device)
            total += float(sandwich.backward(mixture, batch, step))
            torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.config.gradient_clip)
            optimizer.step()
        return total / steps


class Reptile:
    """The state of a meta-training, whose rounds depend on nothing but the seed and the round.

    Tensors whose shapes the data decide stay each task's own and are no part of the result.

    Args:
        tasks: with supernets of the same structure.
        shared: names of the tensors that are meta-trained, of equal shapes in all supernets.
        space: of the mixtures.
        rounds: number of rounds; the tasks take turns, each time in a random order.
        inner_steps: training steps of a task in a round.
        rate: share of the way that the weights move in the first round, 0 to 1; it falls to 0 in
            equal steps.
        seed: of the order of the tasks.

    Attributes:
        weights: the shared tensors by their names.
        step: number of rounds done.
    """

    def __init__(
        self,
        tasks: Sequence[TaskTraining],
        shared: Sequence[str],
        space: SearchSpace,
        *,
        rounds: int,
        inner_steps: int,
        rate: float,
        seed: int,
    ) -> None:
        self.tasks, self.shared = tasks, tuple(shared)
        self.rounds, self.inner_steps, self.rate, self.seed = rounds, inner_steps, rate, seed
        first = tasks[0].supernet.state_dict()
        self.weights = {name: first[name].clone() for name in self.shared}
        self.sandwiches = [
            # Sizes that join step by step would join again in each round.
            Sandwich(
                task.supernet, space, task.config.model_copy(update={"shrinking": 0.0}), seed,
                task.loss_of,
            )
            for task in tasks
        ]  # fmt: skip
        self.step = 0

    def advance(self) -> dict[str, Any]:
        """Do one round.

        Returns:
            A record for the history: the number of the task, and its mean loss.

        Raises:
            HwnasError: the loss is not finite.
        """
        turn, place = divmod(self.step, len(self.tasks))
        number = int(np.random.default_rng([self.seed, turn]).permutation(len(self.tasks))[place])
        task = self.tasks[number]
        state = task.supernet.state_dict()
        with torch.no_grad():
            for name, value in self.weights.items():
                state[name].copy_(value)
        loss = task.train(self.sandwiches[number], turn * self.inner_steps, self.inner_steps)
        if not math.isfinite(loss):
            raise HwnasError(
                "the loss is no longer finite",
                where=f"round {self.step}, task {number + 1}",
                mend="lower search.learning_rate of this task",
            )
        self._move_towards(state, self.rate * (1 - self.step / self.rounds))
        self.step += 1
        return {"task": number + 1, "loss": loss}

    @torch.no_grad()
    def _move_towards(self, state: Mapping[str, Tensor], share: float) -> None:
        """Move the weights a share of the way to those of a task."""
        for name, value in self.weights.items():
            if value.dtype.is_floating_point:
                value.lerp_(state[name], share)
            else:
                value.copy_(state[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume the meta-training."""
        own = [
            {n: v for n, v in task.supernet.state_dict().items() if n not in self.weights}
            for task in self.tasks
        ]
        return {"step": self.step, "weights": self.weights, "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.step = state["step"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
        for task, own in zip(self.tasks, state["own"], strict=True):
            task.supernet.load_state_dict(own, strict=False)


def shared_tensors(supernets: Sequence[Supernet], altered: Supernet) -> list[str]:
    """The names of the tensors whose shapes do not depend on the data of any task.

    Args:
        supernets: one for each task.
        altered: the first of them for another number of classes.

    Raises:
        InputError: when the supernets have no such tensor.
    """
    shapes = [
        {name: value.shape for name, value in one.state_dict().items()}
        for one in (*supernets, altered)
    ]
    shared = [n for n, s in shapes[0].items() if all(one.get(n) == s for one in shapes)]
    if not shared:
        raise InputError(
            "the supernets of the tasks have no tensor in common",
            expected="tensors of the same names and shapes",
        )
    return shared
