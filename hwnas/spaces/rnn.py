"""The recurrent cell of DARTS: Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019
(arXiv 1806.09055), section 3.2 and appendix A.1.2.

A step of the cell has a first state, made of its input and the last step's output, and eight
nodes. Each node takes one earlier state and one activation; the step's output is the mean of the
nodes. All steps share their weights. A deployed network is unrolled over its fixed number of
steps, so that it consists of plain operators, which a latency table prices.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

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
from hwnas.spaces.options import SpaceOptions

PENN_TREEBANK = {"vocabulary": 10_000, "classes": 10_000, "head": "dense"}


class RnnOptions(SpaceOptions):
    """Sizes of the networks; a network has as many steps as its input has columns."""

    channels: int = Field(64, ge=1, le=4096, description="of all states")
    nodes: int = Field(8, ge=1, le=MOST_NODES)


class RnnSpace(LayerSpace):
    """Recurrent cells; the choices are `node1` ... with options like `tanh~0`."""

    name = "rnn"
    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
    options_model = RnnOptions
    heads = ("classifier", "dense")
    reads_tokens = True
    variants = {
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
        """The operator of a node that takes an option; once, of all steps."""
        return self._step_operator(f"rnn_{option.partition('~')[0]}", self.options)

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        return Counter({self.spec(choice, self.choices[choice].options[option]): self.steps})

    def fixed_operators(self) -> Counter[OpSpec]:
        in_steps = {self.first: self.steps, self.last: self.steps}
        return Counter([*self.stem, *self.head]) + Counter(in_steps)

    def runs_of_weights(self, spec: OpSpec) -> int:
        return 1 if spec in (*self.stem, *self.head) else self.steps

    def to_genotype(self, architecture: Architecture) -> Any:
        """`recurrent`, for each node its activation and state, and `concat`, the states whose mean
        is the output.
        """
        self.validate(architecture)
        pairs = [option.partition("~") for _, option in architecture]
        recurrent = [[function, int(state)] for function, _, state in pairs]
        return {"recurrent": recurrent, "concat": list(range(1, self.options.nodes + 1))}

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read `to_genotype`'s notation."""
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
    """One node as a mixture over activations and states, which share its weights.

    Unlike other mixtures this one is divided by the sum of its weights: a sum that is not 1 would
    grow or vanish over the steps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels, bias=False)
        self.functions = nn.ModuleList(function() for function in FUNCTIONS.values())

    def forward(self, states: list[Tensor], weights: Tensor, active: tuple[int, ...]) -> Tensor:
        """The next state (N, C).

        Args:
            states: (N, C) each.
            weights: (activations * states,), of the option `activation * len(states) + state`.
            active: options to be computed.
        """
        found = torch.zeros_like(states[0])
        for index, state in enumerate(states):
            options = [option for option in active if option % len(states) == index]
            if options:
                gate, value = self.linear(state).chunk(2, dim=1)
                for option in options:
                    function = self.functions[option // len(states)]
                    found = found + weights[option] * highway(state, gate, function(value))
        return found / weights.sum().clamp_min(1e-12)


class RnnSupernet(Supernet):
    """The cell with all candidates, unrolled."""

    def __init__(self, space: RnnSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*map(build, space.stem))
        self.first = build(space.first)
        self.nodes = nn.ModuleList(MixedNode(space.options.channels) for _ in space.choices)
        self.last = build(space.last)
        self.head = nn.Sequential(*map(build, space.head))
        self.counts = [len(choice.options) for choice in space.choices]

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        columns = steps_of(self.stem(x))
        rows = mixture.weights.to(columns[0].dtype)
        actives = [mixture.active_options(row) for row in range(len(self.nodes))]
        output, outputs = torch.zeros_like(columns[0]), []
        for column in columns:
            states = [self.first(column, output)]
            for row, (node, count) in enumerate(zip(self.nodes, self.counts, strict=True)):
                active = actives[row]
                options = tuple(range(count)) if active is None else active
                states.append(node(states, rows[row, :count], options))
            output = self.last(*states[1:])
            outputs.append(output)
        return self.head(sequence_of(outputs))


class RnnNetwork(Network):
    """The network of one architecture, unrolled."""

    def __init__(self, space: RnnSpace, architecture: Architecture) -> None:
        super().__init__()
        space.validate(architecture)
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
        for column in columns:
            states = [self.first(column, output)]
            for node, source in zip(self.nodes, self.sources, strict=True):
                states.append(node(states[source]))
            output = self.last(*states[1:])
            outputs.append(output)
        return self.head(sequence_of(outputs))
