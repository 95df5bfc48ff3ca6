"""Training of several sizes of one network at once, each step some of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.config import TrainConfig
from hwnas.data import Batches
from hwnas.data.inputs import InputTensors
from hwnas.errors import HwnasError
from hwnas.shrinking.elastic import SharedNetwork, in_turn
from hwnas.training.optimizer import build_optimizer, load_optimizer
from hwnas.training.schedule import cosine
from hwnas.training.teacher import Distillation

AT_ONCE = 2
"""Sizes that are trained in each step."""


@dataclass
class ElasticTraining:
    """The state of a training, whose steps depend on nothing but the seed and the step.

    Attributes:
        whole: has the weights that all sizes share.
        sizes: the smaller networks.
        config: settings of the optimiser and its schedule.
        batches: training batches by step.
        loss_of: maps outputs, targets and label smoothing to the loss.
        distillation: what the teacher adds to it.
        arguments: gives inputs the shape that each of the smaller networks reads.
        step: number of steps done.
        seconds: time spent in these steps.
        average: exponential moving average of the shared weights.
    """

    whole: nn.Module
    sizes: Sequence[SharedNetwork]
    config: TrainConfig
    batches: Batches
    loss_of: Callable[[Tensor, Tensor, float], Tensor]
    distillation: Distillation
    arguments: Sequence[Callable[[InputTensors], tuple[Tensor, ...]]]
    step: int = 0
    seconds: float = 0.0
    average: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.whole, self.config)
        self.average = copy.deepcopy(self.whole)
        self.steps = self.config.epochs * self.batches.steps_per_epoch
        turns = in_turn(len(self.sizes), AT_ONCE)
        self.turns = [next(turns) for _ in range(self.steps)]
        for size in self.sizes:
            size.small.train()

    def advance(self) -> dict[str, Any]:
        """Take one step of the optimiser.

        Raises:
            HwnasError: the loss is not finite.
        """
        started, config = time.monotonic(), self.config
        rate = cosine(
            config.learning_rate,
            config.learning_rate_min,
            self.step / self.steps,
            warmup=config.warmup,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = self.batches.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        turn = self.turns[self.step]
        for place in turn:
            outputs = self.sizes[place](*self.arguments[place](inputs))
            own = self.loss_of(outputs, targets, config.label_smoothing)
            loss = self.distillation.loss(inputs, outputs, own) / len(turn)
            torch.autograd.backward(loss)
            total += loss.item()
        if not math.isfinite(total):
            raise HwnasError(
                "the loss is no longer finite",
                where=f"training step {self.step}",
                mend="lower train.learning_rate",
            )
        nn.utils.clip_grad_norm_(self.whole.parameters(), config.gradient_clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - started
        return {"loss": total}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.whole.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "whole": self.whole.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.whole.load_state_dict(state["whole"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])

    def finished(self) -> list[nn.Module]:
        """A network of each size with the averaged weights, its batch norms not recalibrated."""
        self.whole.load_state_dict(self.average.state_dict())
        return [size.separate().eval() for size in self.sizes]
