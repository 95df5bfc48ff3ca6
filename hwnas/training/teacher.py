"""Distillation: a network learns from the outputs of another one, its teacher.

A network that has modules of the same path as its teacher, with outputs of the same shape, can
learn from those outputs too (Romero et al., "FitNets", ICLR 2015, arXiv 1412.6550, without a
regressor).

The distance of class logits is the Kullback-Leibler divergence of softened probabilities (Hinton et
al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2), that of anything
else the mean squared difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.data.inputs import InputTensors

Outputs = Callable[[InputTensors], Tensor]
"""Maps inputs (N, ...) to the teacher's outputs."""


class Features:
    """Outputs of modules inside a network and its teacher, in their latest forward passes.

    Modules are compared whose path is the same in both and whose outputs have the same shape: of
    modules inside each other the outermost.

    Attributes:
        weight: what the mean distance is multiplied by in the loss.
        paths: of the modules that are compared.
    """

    def __init__(
        self, network: nn.Module, teacher: nn.Module, example: InputTensors, weight: float
    ) -> None:
        """Find the modules; `watch` has to be called before the first distance.

        Args:
            network: the network that learns.
            teacher: the other network; it is observed from now on.
            example: inputs of both.
            weight: what the mean distance is multiplied by.
        """
        self.weight = weight
        shapes = [_output_shapes(one, example) for one in (network, teacher)]
        equal = [
            path for path, shape in shapes[0].items() if shape and shapes[1].get(path) == shape
        ]
        self.paths = [
            path for path in equal if not any(path.startswith(f"{other}.") for other in equal)
        ]
        self._own: dict[str, Tensor] = {}
        self._expected: dict[str, Tensor] = {}
        self._observe(teacher, self._expected)

    def watch(self, network: nn.Module) -> None:
        """Keep the outputs of the network that learns from now on."""
        self._observe(network, self._own)

    def _observe(self, network: nn.Module, kept: dict[str, Tensor]) -> None:
        for path in self.paths:
            network.get_submodule(path).register_forward_hook(_keeping(kept, path))

    def distance(self) -> Tensor:
        """The mean squared distance of outputs of unit length, over modules, a scalar."""
        if not self.paths:
            return torch.tensor(0.0)
        distances = [
            (_unit(self._own[path]) - _unit(self._expected[path].detach())).square().sum(1).mean()
            for path in self.paths
        ]
        return torch.stack(distances).mean()


def _unit(outputs: Tensor) -> Tensor:
    return F.normalize(outputs.flatten(1), dim=1)


def _keeping(kept: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        kept[path] = output

    return hook


@torch.no_grad()
def _output_shapes(network: nn.Module, example: InputTensors) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs of a network's inner modules that return maps or tokens."""
    shapes: dict[str, tuple[int, ...]] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() > 2:
                shapes[path] = tuple(output.shape)

        return keep

    inner = [(path, module) for path, module in network.named_modules() if path]
    handles = [module.register_forward_hook(hook(path)) for path, module in inner]
    training = network.training
    network.eval()(example)
    network.train(training)
    for handle in handles:
        handle.remove()
    return shapes


@dataclass(frozen=True)
class Distillation:
    """What a teacher adds to the loss of a training.

    Attributes:
        teacher: gives its outputs for inputs as the network reads them.
        weight: its share of the loss, 0 to 1.
        temperature: divides the logits before the softmax.
        tells_classes: whether the outputs are class logits, along dimension 1.
        features: compares outputs inside both networks; None to compare the final ones alone.
    """

    teacher: Outputs
    weight: float
    temperature: float = 4.0
    tells_classes: bool = True
    features: Features | None = None

    def loss(self, inputs: InputTensors, outputs: Tensor, own: Tensor) -> Tensor:
        """The loss of a batch: the network's own loss and that of the teacher's outputs.

        Args:
            inputs: (N, ...); several are a tuple.
            outputs: of the network.
            own: the loss against the targets, a scalar.
        """
        with torch.no_grad():
            expected = self.teacher(inputs).to(outputs)
        loss = (1 - self.weight) * own + self.weight * self.distance(outputs, expected)
        if self.features is not None:
            loss = loss + self.features.weight * self.features.distance()
        return loss

    def distance(self, outputs: Tensor, expected: Tensor) -> Tensor:
        """How far the outputs are from the teacher's, a scalar."""
        if not self.tells_classes:
            return F.mse_loss(outputs, expected)
        soft = (expected / self.temperature).softmax(dim=1)
        found = (outputs / self.temperature).log_softmax(dim=1)
        divergence = F.kl_div(found, soft, reduction="none").sum(dim=1).mean()
        # The gradients of softened logits are smaller by the square of the temperature.
        return divergence * self.temperature**2
