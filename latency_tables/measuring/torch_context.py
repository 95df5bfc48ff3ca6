"""Modules that put an operator into a context like that of a network, and their baselines.

`Context` is the counterpart in PyTorch of the graphs of `onnx_context`: every operator follows a
1x1 convolution (a linear layer for tokens) and a ReLU, and the time of these layers alone is
subtracted. Unlike there, whole feature maps are outputs, because a compiler that is asked for one
pixel would compute only that pixel. A network writes its feature maps to memory as well.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Empty(nn.Module):
    """Takes the inputs of an operator and computes nothing."""

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the first input."""
        return tensors[0]


class Context(nn.Module):
    """Parallel copies of an operator, each of whose inputs passes through a context layer first.

    A context layer is a 1x1 convolution or a linear layer, followed by a ReLU. The module takes the
    inputs of all copies, (N, C, H, W), (N, T, C) or (N, C). It returns for each copy the operator's
    output, and the outputs of the context layers of all inputs but the first. Without an operator
    it returns the outputs of all context layers.
    """

    def __init__(
        self, operator: nn.Module | None, inputs: Sequence[Tensor], *, copies: int, seed: int
    ) -> None:
        """Copy the operator and initialise the context layers.

        Args:
            operator: a module that takes `inputs`; None gives the baseline.
            inputs: example inputs, (N, C, H, W), (N, T, C) or (N, C) each, which determine the
                shapes and the number format.
            copies: number of parallel copies.
            seed: seed of the context layers' weights.
        """
        super().__init__()
        self.inputs = len(inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.contexts = nn.ModuleList(
                nn.Sequential(_channel_mixer(tensor), nn.ReLU())
                for _ in range(copies)
                for tensor in inputs
            )
        self.contexts.to(inputs[0].dtype)
        self.operators = nn.ModuleList(
            nn.Identity() if operator is None else copy.deepcopy(operator) for _ in range(copies)
        )
        self.is_baseline = operator is None

    def copies_of(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return inputs for all copies, each a separate copy in memory of one of `inputs`."""
        return tuple(tensor.clone() for _ in self.operators for tensor in inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of all copies, see the class."""
        maps = [context(x) for context, x in zip(self.contexts, tensors, strict=True)]
        outputs: list[Tensor] = []
        for index, operator in enumerate(self.operators):
            own = maps[index * self.inputs : (index + 1) * self.inputs]
            outputs += [own[0] if self.is_baseline else operator(*own), *own[1:]]
        return tuple(outputs)


def _channel_mixer(tensor: Tensor) -> nn.Module:
    """Return a layer that maps all channels to as many channels, at each pixel or token."""
    if tensor.dim() == 4:
        return nn.Conv2d(tensor.shape[1], tensor.shape[1], 1)
    return nn.Linear(tensor.shape[-1], tensor.shape[-1])
