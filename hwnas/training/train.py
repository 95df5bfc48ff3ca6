"""Training of one architecture's network."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split, evaluation_batches
from hwnas.errors import HwnasError, InputError
from hwnas.runs.loop import run_steps
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.networks import Network
from hwnas.tasks import Task
from hwnas.training.optimizer import build_optimizer
from hwnas.training.schedule import cosine

STAGE = "train"
LOG_EVERY = 25


def _cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


class DivergedError(HwnasError):
    """The loss is no longer finite."""


@dataclass
class Training:
    """The state of a training run and its steps; everything is a function of seed and step.

    Attributes:
        network: to be trained; with an auxiliary head only if its weight is not 0.
        config: settings.
        batches: training batches by step.
        seed: of drop path.
        loss_of: of outputs, targets and the label smoothing.
    """

    network: Network
    config: TrainConfig
    batches: Batches
    seed: int
    loss_of: Callable[[Tensor, Tensor, float], Tensor] = _cross_entropy
    step: int = 0
    seconds: float = 0.0
    average: Network = field(init=False)

    def __post_init__(self) -> None:
        if not self.config.auxiliary_weight:
            self.network.auxiliary = None
        elif self.network.auxiliary is None:
            raise InputError(
                "networks of this space have no auxiliary head",
                where="train.auxiliary_weight",
                expected=0,
                actual=self.config.auxiliary_weight,
            )
        self.optimizer = build_optimizer(self.network, self.config)
        self.average = copy.deepcopy(self.network).eval()
        self.steps = self.config.epochs * self.batches.steps_per_epoch
        self.device = next(self.network.parameters()).device
        half = self.config.mixed_precision and self.device.type == "cuda"
        self.dtype = torch.bfloat16 if half else torch.float32

    def run(self, folder: RunFolder, progress: Advance) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            Interrupted: after a signal, with a checkpoint written.
            DivergedError: when the loss is no longer finite.
        """
        run_steps(
            self,
            folder,
            stage=STAGE,
            steps=self.steps,
            log_every=LOG_EVERY,
            checkpoint_every=self.config.checkpoint_every,
            progress=progress,
        )

    def advance(self) -> dict[str, Any]:
        """One step of the optimiser; returns its loss.

        Raises:
            DivergedError: when the loss is not finite.
        """
        started = time.monotonic()
        config = self.config
        fraction = self.step / self.steps
        rate = cosine(
            config.learning_rate, config.learning_rate_min, fraction, warmup=config.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        self.network.drop_path = config.drop_path * fraction
        torch.manual_seed(_step_seed(self.seed, self.step))
        inputs, targets = self.batches.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        ):
            loss = self._loss(inputs, targets)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                "the loss is no longer finite",
                where=f"training step {self.step}",
                mend="lower train.learning_rate",
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - started
        return {"loss": loss.item()}

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        outputs, auxiliary = self.network.forward_with_auxiliary(inputs)
        loss = self.loss_of(outputs, targets, smoothing)
        if auxiliary is not None:
            more = self.loss_of(auxiliary, targets, smoothing)
            loss = loss + self.config.auxiliary_weight * more
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average; young averages forget faster, so short runs profit too."""
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        )
        for mean, value in pairs:
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


@torch.no_grad()
def predictions(
    network: nn.Module, split: Split, dataset: Dataset, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of all samples of a split, in order, a batch at a time."""
    network.eval()
    for inputs, targets in evaluation_batches(split, dataset, 250, device):
        yield network(inputs), targets


def evaluate(network: nn.Module, task: Task, device: torch.device) -> dict[str, Any]:
    """The task's metrics on the test split, and the name of its score."""
    dataset = task.dataset
    found = task.metrics(predictions(network, dataset.test, dataset, device))
    return {"metric": task.metric, **found}


def final_weights(network: Network) -> dict[str, Tensor]:
    """The tensors of the deployed network: all but the auxiliary head's."""
    state = network.state_dict()
    return {
        name: value.contiguous()
        for name, value in state.items()
        if not name.startswith("auxiliary.")
    }
