"""Modules that are subtracted from operators; for compilers, with the surroundings of a network.

A `Context` is in PyTorch what `context` is in ONNX: every operator stands behind a 1x1 convolution
(a linear layer for tokens) with a ReLU, and what these cost alone is subtracted. A compiler would
compute nothing but the one pixel that is read of a map; so maps are outputs as a whole, which a
network writes to memory too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Empty(nn.Module):
    """Takes what an operator takes and computes nothing."""

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the first one."""
        return tensors[0]


class Context(nn.Module):
    """Several copies of an operator, side by side, each behind contexts of its own.

    Takes the inputs of all copies, (N, C, H, W), (N, T, C) or (N, C), and returns for each copy the
    operator's result and the contexts of its further inputs; without an operator, the contexts
    alone.
    """

    def __init__(
        self, operator: nn.Module | None, inputs: Sequence[Tensor], *, copies: int, seed: int
    ) -> None:
        """Copy the operator.

        Args:
            operator: takes `inputs`; None gives the baseline.
            inputs: (N, C, H, W), (N, T, C) or (N, C) each; shapes and number format count.
            copies: how many stand side by side.
            seed: of the contexts' weights.
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
        """Inputs of all copies from those of one, each in memory of its own."""
        return tuple(tensor.clone() for _ in self.operators for tensor in inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        maps = [context(x) for context, x in zip(self.contexts, tensors, strict=True)]
        outputs: list[Tensor] = []
        for index, operator in enumerate(self.operators):
            own = maps[index * self.inputs : (index + 1) * self.inputs]
            outputs += [own[0] if self.is_baseline else operator(*own), *own[1:]]
        return tuple(outputs)


def _channel_mixer(tensor: Tensor) -> nn.Module:
    """A layer from all channels to all channels, at each pixel or token."""
    if tensor.dim() == 4:
        return nn.Conv2d(tensor.shape[1], tensor.shape[1], 1)
    return nn.Linear(tensor.shape[-1], tensor.shape[-1])
