"""Training and evaluation of the network of one architecture."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.config import TrainConfig
from hwnas.data import Batches
from hwnas.data.inputs import InputTensors
from hwnas.errors import HwnasError, InputError
from hwnas.runs.loop import run_steps
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.networks import TRAINING_PARTS, Network
from hwnas.training.adversary import Adversary
from hwnas.training.curve import LearningCurve
from hwnas.training.optimizer import build_optimizer, load_optimizer
from hwnas.training.schedule import cosine
from hwnas.training.teacher import Distillation

STAGE = "train"
LOG_EVERY = 25
"""Steps between entries in the run's history."""


def _cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


class DivergedError(HwnasError):
    """The training loss is not finite (exit code 2)."""


@dataclass
class Training:
    """The state of a training run, whose steps depend on nothing but the seed and the step.

    Attributes:
        network: the network to train; its auxiliary head is removed if the configured weight is 0.
        config: settings.
        batches: training batches by step.
        seed: seed of the random choices in the network, such as drop path.
        loss_of: maps outputs, targets and label smoothing to the loss.
        curve: measures scores from time to time for the history; None measures nothing.
        distillation: what a teacher adds to the loss; None to learn from the targets alone.
        stage: names its checkpoints and its records in the history.
        step: number of steps done.
        seconds: time spent in these steps.
        average: exponential moving average of the network's weights, in evaluation mode.
        adversary: the discriminator of a generator, where an adversarial weight is configured.

    Raises:
        InputError: an auxiliary weight is configured but the network has no auxiliary head, or an
            adversarial weight but the network generates no images.
    """

    network: Network
    config: TrainConfig
    batches: Batches
    seed: int
    loss_of: Callable[[Tensor, Tensor, float], Tensor] = _cross_entropy
    curve: LearningCurve | None = None
    distillation: Distillation | None = None
    stage: str = STAGE
    step: int = 0
    seconds: float = 0.0
    average: Network = field(init=False)
    adversary: Adversary | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.config.auxiliary_weight:
            self.network.auxiliary = None
        elif self.network.auxiliary is None:
            raise InputError(
                "the networks of this search space have no auxiliary head",
                where="train.auxiliary_weight",
                expected=0,
                actual=self.config.auxiliary_weight,
            )
        self.optimizer = build_optimizer(self.network, self.config)
        self.average = copy.deepcopy(self.network).eval()
        if self.distillation is not None and self.distillation.features is not None:
            self.distillation.features.watch(self.network)
        self.steps = self.config.epochs * self.batches.steps_per_epoch
        self.device = next(self.network.parameters()).device
        half = self.config.mixed_precision and self.device.type == "cuda"
        self.dtype = torch.bfloat16 if half else torch.float32
        if self.config.adversarial_weight:
            self.adversary = self._new_adversary()

    def _new_adversary(self) -> Adversary:
        if self.network.encoder is None:
            raise InputError(
                "only generators of images are trained against a discriminator",
                where="train.adversarial_weight",
                expected=0,
                actual=self.config.adversarial_weight,
            )
        image_shape = tuple(self.batches.batch(0)[1].shape[1:])
        return Adversary(image_shape, self.device, self.seed)

    def run(self, folder: RunFolder, progress: Advance, until: int | None = None) -> None:
        """Train to the end, starting from the newest checkpoint if there is one.

        Args:
            folder: folder of the run, for checkpoints and the history.
            progress: called after each step.
            until: the step to stop at, if that is not the last one.

        Raises:
            Interrupted: a signal was received; a checkpoint has been written.
            DivergedError: the loss is not finite.
        """
        run_steps(
            self,
            folder,
            stage=self.stage,
            steps=self.steps if until is None else until,
            log_every=LOG_EVERY,
            checkpoint_every=self.config.checkpoint_every,
            progress=progress,
            also_log=self._measured_steps,
        )

    @property
    def _measured_steps(self) -> range:
        """The steps after which the curve is measured."""
        return range(0) if self.curve is None else self.curve.steps(self.steps)

    def advance(self) -> dict[str, Any]:
        """Take one step of the optimiser.

        Returns:
            A record for the history with the loss and, where they are due, the curve's scores.

        Raises:
            DivergedError: the loss is not finite.
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
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimizer.step()
        self._update_average()
        record = {"loss": loss.item()}
        if self.adversary is not None:
            record["discriminator_loss"] = self.adversary.learn(inputs[1], rate)
        self.step += 1
        self.seconds += time.monotonic() - started
        if self.curve is not None and self.step in self._measured_steps:
            record |= self.curve.measure(self.average, self.step, self.device)
        return record

    def add_gradients(self, batches: int) -> None:
        """Add up the gradients of the next batches in training mode, without drop path or steps."""
        self.network.train()
        self.network.drop_path = 0.0
        for step in range(self.step, self.step + batches):
            torch.manual_seed(_step_seed(self.seed, step))
            torch.autograd.backward(self._loss(*self.batches.batch(step)))

    def _loss(self, inputs: InputTensors, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        outputs, auxiliary = self.network.forward_with_auxiliary(inputs)
        loss = self.loss_of(outputs, targets, smoothing)
        if self.distillation is not None:
            loss = self.distillation.loss(inputs, outputs, loss)
        if auxiliary is not None:
            more = self.loss_of(auxiliary, targets, smoothing)
            loss = loss + self.config.auxiliary_weight * more
        if self.adversary is not None:
            more = self.adversary.loss(self.network, inputs[0])
            loss = loss + self.config.adversarial_weight * more
        return loss

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the moving average; its decay grows over the first steps, as for short runs."""
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
        """Return the state that is needed to resume the training."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adversary": self.adversary and self.adversary.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def final_weights(network: Network) -> dict[str, Tensor]:
    """Return the tensors of the deployed network, without those of parts for training only."""
    state = network.state_dict()
    parts = tuple(f"{name}." for name in TRAINING_PARTS)
    return {
        name: value.clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
        if not name.startswith(parts)
    }
