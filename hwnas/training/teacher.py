"""Distillation: a network learns from the outputs of another one, its teacher.

The distance of class logits is the Kullback-Leibler divergence of softened probabilities (Hinton et
al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2), that of anything
else the mean squared difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data.inputs import InputTensors

Outputs = Callable[[InputTensors], Tensor]
"""Maps inputs (N, ...) to the teacher's outputs."""


@dataclass(frozen=True)
class Distillation:
    """What a teacher adds to the loss of a training.

    Attributes:
        teacher: gives its outputs for inputs as the network reads them.
        weight: its share of the loss, 0 to 1.
        temperature: divides the logits before the softmax.
        tells_classes: whether the outputs are class logits, along dimension 1.
    """

    teacher: Outputs
    weight: float
    temperature: float = 4.0
    tells_classes: bool = True

    def loss(self, inputs: InputTensors, outputs: Tensor, own: Tensor) -> Tensor:
        """The loss of a batch: the network's own loss and that of the teacher's outputs.

        Args:
            inputs: (N, ...); several are a tuple.
            outputs: of the network.
            own: the loss against the targets, a scalar.
        """
        with torch.no_grad():
            expected = self.teacher(inputs).to(outputs)
        return (1 - self.weight) * own + self.weight * self.distance(outputs, expected)

    def distance(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """How far the outputs are from the teacher's, a scalar."""
        if not self.tells_classes:
            return F.mse_loss(outputs, expected)
        soft = (expected / self.temperature).softmax(dim=1)
        found = (outputs / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(found, soft, reduction="none").sum(dim=1).mean()
        # The gradients of softened logits are smaller by the square of the temperature.
        return divergence * self.temperature**2
