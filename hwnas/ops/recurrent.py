"""Operators of one time step of the recurrent cell of DARTS, on states (N, C).

Liu et al., ICLR 2019 (arXiv 1806.09055), appendix A.1.2, with the highway connections of Zilly et
al., "Recurrent Highway Networks", ICML 2017 (arXiv 1607.03474).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder

FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
MOST_NODES = 16
"""The largest number of nodes of a cell."""


def highway(state: Tensor, gate: Tensor, value: Tensor) -> Tensor:
    """A highway connection: sigmoid(gate) value + (1 - sigmoid(gate)) state."""
    return state + gate.sigmoid() * (value - state)


class RecurrentInput(nn.Module):
    """The first state of a step, from the step's input and the previous step's output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        gate, value = self.linear(torch.cat((x, last), dim=1)).chunk(2, dim=1)
        return highway(last, gate, value.tanh())


class RecurrentNode(nn.Module):
    """A state computed from an earlier state of the same step."""

    def __init__(self, channels: int, function: str) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels, bias=False)
        self.function = FUNCTIONS[function]()

    def forward(self, state: Tensor) -> Tensor:
        gate, value = self.linear(state).chunk(2, dim=1)
        return highway(state, gate, self.function(value))


class MeanOf(nn.Module):
    """The mean of several states, the output of a step."""

    def forward(self, *states: Tensor) -> Tensor:
        total = states[0]
        for state in states[1:]:
            total = total + state
        return total / len(states)


def recurrent_node(spec: OpSpec, affine: bool, *, function: str) -> RecurrentNode:
    """The operator `rnn_<function>`."""
    return RecurrentNode(spec.c_in, function)


RECURRENT_OPERATORS: dict[str, Builder] = {
    "rnn_input": lambda s, affine: RecurrentInput(s.c_in),
    **{f"rnn_{name}": partial(recurrent_node, function=name) for name in FUNCTIONS},
    **{f"mean_of_{nodes}": lambda s, affine: MeanOf() for nodes in range(1, MOST_NODES + 1)},
}


def state_inputs(name: str) -> int | None:
    """How many states an operator reads; None if it is not a recurrent operator."""
    if name not in RECURRENT_OPERATORS:
        return None
    if name.startswith("mean_of_"):
        return int(name.removeprefix("mean_of_"))
    return 2 if name == "rnn_input" else 1
