"""The recurrent cell space of DARTS.

Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019 (arXiv 1806.09055), section 3.2
and appendix A.1.2.

At each time step the cell computes a first state from the step's input and the previous step's
output, and then a state for each of its nodes (eight in the paper). A node reads one earlier state
and applies one activation function; the step's output is the mean of the nodes' states. All steps
share their weights. A deployed network is unrolled over its fixed number of steps, so that it
consists of plain operators that a latency table can contain.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.ops.recurrent import FUNCTIONS, MOST_NODES, highway
from hwnas.ops.sequences import stem_operator
from hwnas.spaces.choices import Choice
from hwnas.spaces.layers import LayerSpace
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions, Variants

PENN_TREEBANK = {"vocabulary": 10_000, "classes": 10_000, "head": "dense"}
"""The language model of the paper, which predicts the next word at each step."""


class RnnOptions(SpaceOptions):
    """Sizes of the networks; a network has as many steps as the input has columns."""

    channels: int = Field(64, ge=1, le=4096, description="channels of all states")
    nodes: int = Field(8, ge=1, le=MOST_NODES, description="nodes of the cell")


class RnnSpace(LayerSpace):
    """Recurrent cells; the choices are `node1` ..., with options such as `tanh~0`.

    An option names the activation function and the state that the node reads.
    """

    name = "rnn"
    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
    options_model = RnnOptions
    heads = ("classifier", "dense")
    reads_tokens = True
    variants: ClassVar[Variants] = {
        "": {**PENN_TREEBANK, "input_channels": 1, "height": 1, "width": 35, "channels": 300}
    }
    options: RnnOptions

    def __init__(self, options: RnnOptions) -> None:
        self.steps = options.width
        self.stem = [stem_operator(options.vocabulary, options.input_shape, options.channels)]
        self.first = self._step_operator("rnn_input", options)
        self.last = self._step_operator(f"mean_of_{options.nodes}", options)
        self.head = [options.head_operator(options.channels, 1, self.steps)]
        super().__init__(options)

    @staticmethod
    def _step_operator(name: str, options: RnnOptions) -> OpSpec:
        return OpSpec(name, options.channels, options.channels, 1, 1)

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(
            Choice(
                f"node{node + 1}",
                tuple(f"{function}~{state}" for function in FUNCTIONS for state in range(node + 1)),
            )
            for node in range(self.options.nodes)
        )

    def spec(self, choice: int, option: str) -> OpSpec:
        """The operator of one option of a node, which runs at every step."""
        return self._step_operator(f"rnn_{option.partition('~')[0]}", self.options)

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        return Counter({self.spec(choice, self.choices[choice].options[option]): self.steps})

    def fixed_operators(self) -> Counter[OpSpec]:
        in_each_step = {self.first: self.steps, self.last: self.steps}
        return Counter([*self.stem, *self.head]) + Counter(in_each_step)

    def runs_of_weights(self, spec: OpSpec) -> int:
        return 1 if spec in (*self.stem, *self.head) else self.steps

    def to_genotype(self, architecture: Architecture) -> Any:
        """DARTS' notation: [activation, state] of each node, and the states that are averaged."""
        self.validate(architecture)
        pairs = [option.partition("~") for _, option in architecture]
        recurrent = [[function, int(state)] for function, _, state in pairs]
        return {"recurrent": recurrent, "concat": list(range(1, self.options.nodes + 1))}

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read DARTS' notation, a mapping with `recurrent` and `concat`."""
        pairs_expected = f"{self.options.nodes} pairs like ['tanh', 0]"
        expected = f"{{'recurrent': {pairs_expected}, 'concat': [1, ...]}}"
        given = genotype.get("recurrent") if isinstance(genotype, dict) else None
        pairs = given if isinstance(given, list | tuple) else []
        if len(pairs) == self.options.nodes and all(
            isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
        ):
            chosen = {c.name: f"{p[0]}~{p[1]}" for c, p in zip(self.choices, pairs, strict=True)}
            architecture = self.architecture(chosen)
            joined = genotype.get("concat")
            all_nodes = list(range(1, self.options.nodes + 1))
            if isinstance(joined, list | tuple) and list(joined) == all_nodes:
                return architecture
        raise InputError("malformed", where="genotype", expected=expected, actual=repr(genotype))

    def supernet(self, partial_channels: int = 1) -> Supernet:
        return RnnSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return RnnNetwork(self, architecture)


def steps_of(x: Tensor) -> tuple[Tensor, ...]:
    """The columns (N, C) of a sequence (N, C, 1, L)."""
    return x.squeeze(2).unbind(dim=2)


def sequence_of(steps: list[Tensor]) -> Tensor:
    """The sequence (N, C, 1, L) of columns (N, C)."""
    return torch.stack(steps, dim=2).unsqueeze(2)


class MixedNode(nn.Module):
    """A node as a mixture over its options, which share the node's weights.

    Unlike other mixtures it is divided by the sum of its weights. With any other sum than 1 the
    state would grow or vanish over the steps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels, bias=False)
        self.functions = nn.ModuleList(function() for function in FUNCTIONS.values())

    def forward(self, states: list[Tensor], weights: Tensor, active: tuple[int, ...]) -> Tensor:
        """Compute the node's state, (N, C).

        Args:
            states: the earlier states of this step, (N, C) each.
            weights: (activations * states,); option `activation * len(states) + state`.
            active: indices of the options to compute.
        """
        total = torch.zeros_like(states[0])
        for index, state in enumerate(states):
            options = [option for option in active if option % len(states) == index]
            if options:
                gate, value = self.linear(state).chunk(2, dim=1)
                for option in options:
                    function = self.functions[option // len(states)]
                    total = total + weights[option] * highway(state, gate, function(value))
        return total / weights.sum().clamp_min(1e-12)


class RnnSupernet(Supernet):
    """The cell with all candidates, unrolled over the steps."""

    def __init__(self, space: RnnSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*map(build, space.stem))
        self.first = build(space.first)
        self.nodes = nn.ModuleList(MixedNode(space.options.channels) for _ in space.choices)
        self.last = build(space.last)
        self.head = nn.Sequential(*map(build, space.head))
        self.option_counts = [len(choice.options) for choice in space.choices]

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        columns = steps_of(self.stem(x))
        rows = mixture.weights.to(columns[0].dtype)
        actives = [mixture.active_options(row) for row in range(len(self.nodes))]
        output, outputs = torch.zeros_like(columns[0]), []
        for column in columns:
            states = [self.first(column, output)]
            for row, (node, count) in enumerate(zip(self.nodes, self.option_counts, strict=True)):
                active = actives[row]
                options = tuple(range(count)) if active is None else active
                states.append(node(states, rows[row, :count], options))
            output = self.last(*states[1:])
            outputs.append(output)
        y: Tensor = self.head(sequence_of(outputs))
        return y


class RnnNetwork(Network):
    """The network of one architecture, unrolled over the steps."""

    def __init__(self, space: RnnSpace, architecture: Architecture) -> None:
        super().__init__()
        space.validate(architecture)
        self.steps = space.steps
        self.stem = nn.Sequential(*map(build, space.stem))
        self.first = build(space.first)
        self.nodes = nn.ModuleList(
            build(space.spec(row, option)) for row, (_, option) in enumerate(architecture)
        )
        self.last = build(space.last)
        self.head = nn.Sequential(*map(build, space.head))
        self.sources = [int(option.partition("~")[2]) for _, option in architecture]
        self.choice_modules = {f"nodes.{i}": name for i, (name, _) in enumerate(architecture)}

    def forward(self, x: Tensor) -> Tensor:
        columns = steps_of(self.stem(x))
        output, outputs = torch.zeros_like(columns[0]), []
        for step in range(self.steps):  # a known number, so that torch.fx can trace the loop
            states = [self.first(columns[step], output)]
            for node, source in zip(self.nodes, self.sources, strict=True):
                states.append(node(states[source]))
            output = self.last(*states[1:])
            outputs.append(output)
        y: Tensor = self.head(sequence_of(outputs))
        return y
