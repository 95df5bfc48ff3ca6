"""The NAS-Bench-201 cell space.

Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR
2020 (arXiv 2001.00326).

There is one type of cell, with one input and three nodes; each of its six edges takes one of five
operators. A network has three stages of N cells, with a residual block before the second and third
that halves the size and doubles the channels.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.mixed_edge import MixedOp
from hwnas.nn.mixed_op import MixedCell
from hwnas.ops import build
from hwnas.ops.parts import out_size
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.cells import cell_edges, drop_path, require_divisible, without_none
from hwnas.spaces.choices import Choice
from hwnas.spaces.decoding import DecodingProgram, Repeated
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions

STAGES = 3


PRIMITIVES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NASLIB_PRIMITIVES = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""The operators in the order in which NASLib numbers them."""
EDGES = cell_edges(1, 3)
OUTPUT = 3
"""The last node, whose state is the output of the cell."""


def stack(space: NasBench201Space, cells: list[nn.Module]) -> nn.ModuleList:
    """Stack cells, with a residual block between each stage and the next."""
    layers: list[nn.Module] = []
    for index, cell in enumerate(cells):
        stage, position = divmod(index, space.options.cells)
        if stage and not position:
            layers.append(build(space.reductions[stage - 1]))
        layers.append(cell)
    return nn.ModuleList(layers)


class NasBench201Options(SpaceOptions):
    """Sizes of the networks; the defaults are those of the benchmark."""

    cells: int = Field(5, ge=1, le=50, description="cells in each stage, N in the paper")
    channels: int = Field(
        16, ge=2, le=1024, description="channels of the first stage; each stage doubles them"
    )


class NasBench201Space(SearchSpace):
    """NAS-Bench-201 cells; the choices are the edges, `0>1` ... `2>3`.

    State 0 is the cell's input, the nodes follow.

    Attributes:
        stages: channels, height and width of the cells of each stage.
    """

    name = "nasbench201"
    paper = (
        "Dong & Yang, NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture "
        "Search, ICLR 2020, arXiv 2001.00326"
    )
    options_model = NasBench201Options
    options: NasBench201Options

    def __init__(self, options: NasBench201Options) -> None:
        super().__init__(options)
        height, width = options.height, options.width
        self.stages: list[tuple[int, int, int]] = []
        for stage in range(STAGES):
            self.stages.append((options.channels * 2**stage, height, width))
            height, width = out_size(height, 2), out_size(width, 2)
        self.stem = OpSpec(
            "conv_bn_3x3", options.input_channels, options.channels, options.height, options.width
        )
        self.reductions = [
            OpSpec("residual_reduction", channels, 2 * channels, height, width, 2)
            for channels, height, width in self.stages[:-1]
        ]
        channels, height, width = self.stages[-1]
        self.head = OpSpec("bn_relu_classifier", channels, options.classes, height, width)

    def _choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(f"{source}>{target}", PRIMITIVES) for source, target in EDGES)

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        """The operator of an edge in every cell, and the addition to its node's other edges.

        A node with n inputs needs n - 1 additions. They are counted at all of its edges but the
        one from the cell's input.
        """
        name = PRIMITIVES[option]
        counts: Counter[OpSpec] = Counter()
        for channels, height, width in self.stages:
            if name not in ("none", "skip_connect"):
                counts[OpSpec(name, channels, channels, height, width)] += self.options.cells
            if name != "none" and EDGES[choice][0] > 0:
                counts[OpSpec("add", channels, channels, height, width)] += self.options.cells
        return counts

    def fixed_operators(self) -> Counter[OpSpec]:
        return Counter([self.stem, *self.reductions, self.head])

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The probability that an operator is chosen and its edge runs.

        A live edge starts at a node that is reached from the input and ends at a node from which
        the output is reached. Under the rule `read` the first condition is replaced by a weaker
        one, that the output depends on the input at all; otherwise the cell is a constant.
        Events at different nodes are treated as independent, which is exact for one-hot weights.
        """
        # Rows need not sum to 1 (sigmoids, an auxiliary weight).
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        if edges == "all":
            return weights
        present = weights[..., 1:].sum(dim=-1).clamp(max=1.0)
        one = torch.ones_like(present[..., 0])
        from_input, to_output = {0: one}, {OUTPUT: one}
        for node in range(1, OUTPUT + 1):
            absent = one
            for row, (source, target) in enumerate(EDGES):
                if target == node:
                    absent = absent * (1 - from_input[source] * present[..., row])
            from_input[node] = 1 - absent
        for node in reversed(range(OUTPUT)):
            absent = one
            for row, (source, target) in enumerate(EDGES):
                if source == node:
                    absent = absent * (1 - to_output[target] * present[..., row])
            to_output[node] = 1 - absent
        run = [
            from_input[source if edges == "live" else OUTPUT] * to_output[target]
            for source, target in EDGES
        ]
        return weights * torch.stack(run, dim=-1).unsqueeze(-1) * without_none(weights)

    def node_inputs(self) -> list[list[int]]:
        return [
            [row for row, edge in enumerate(EDGES) if edge[1] == node]
            for node in range(1, OUTPUT + 1)
        ]

    def repeats(self) -> list[Repeated]:
        """The pool on the edges that leave the input; elsewhere its cost includes an addition."""
        pool = PRIMITIVES.index("avg_pool_3x3")
        return [Repeated(tuple((row, pool) for row, edge in enumerate(EDGES) if edge[0] == 0))]

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """Every edge takes one option; an operator costs time only if its edge runs.

        The auxiliary variables say whether each node is reached from the input, whether each inner
        node reaches the output, and whether the operator of each edge and option runs. They have
        lower bounds only; since running costs time, the latency budget keeps them there.
        """
        count, options = len(EDGES), len(PRIMITIVES)
        taken = np.arange(count * options).reshape(count, options)
        if edges == "all":
            matrix = np.zeros((count, taken.size))
            matrix[np.arange(count)[:, None], taken] = 1
            return DecodingProgram(0, matrix, np.ones(count), np.ones(count), taken)
        from_input = {node: taken.size + node - 1 for node in (1, 2, OUTPUT)}
        to_output = {1: taken.size + 3, 2: taken.size + 4}
        runs = np.full((count, options), -1)
        runs[:, 1:] = taken.size + 5 + np.arange(count * (options - 1)).reshape(count, -1)
        auxiliary = 5 + count * (options - 1)
        constraints = _Constraints(taken.size + auxiliary)
        for edge, (source, target) in enumerate(EDGES):
            constraints.add([(v, 1.0) for v in taken[edge]], 1, 1)
            none = (int(taken[edge, 0]), 1.0)
            # A node is reached if an edge that is not `none` comes from a node that is reached.
            if target in from_input:
                reached, constant = _minus(from_input, source)
                constraints.add([(from_input[target], 1.0), *reached, none], constant)
            if source in to_output:
                reached, constant = _minus(to_output, target)
                constraints.add([(to_output[source], 1.0), *reached, none], constant)
            before, constant_before = _minus(from_input, source if edges == "live" else OUTPUT)
            behind, constant_behind = _minus(to_output, target)
            for option in range(1, options):
                terms = [(int(runs[edge, option]), 1.0), (int(taken[edge, option]), -1.0)]
                constant = constant_before + constant_behind
                constraints.add([*terms, *before, *behind], constant - 2)
        return constraints.program(auxiliary, runs)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)

    def identity(self, architecture: Architecture) -> str:
        """The output as a sum of operators of sums, in a fixed order.

        Edges without an operator and those of nodes that do not depend on the input are left out,
        and a skip connection adds the terms of the node that it passes on. So isomorphic cells are
        equal, and a few more than in the paper, which keeps absent terms apart (section 2.2).
        """
        terms: dict[int, list[str]] = {0: ["input"]}
        for node in range(1, OUTPUT + 1):
            found: list[str] = []
            for source, target in EDGES:
                option = architecture[f"{source}>{target}"]
                if target != node or option == "none" or not terms[source]:
                    continue
                passed = "+".join(terms[source])
                found += terms[source] if option == "skip_connect" else [f"{option}({passed})"]
            terms[node] = sorted(found)
        return "+".join(terms[OUTPUT])

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.architecture([int(i) for i in rng.integers(len(PRIMITIVES), size=len(EDGES))])

    def to_genotype(self, architecture: Architecture) -> str:
        """The benchmark's string, `|nor_conv_3x3~0|+|...~0|...~1|+|...~0|...~1|...~2|`."""
        self.validate(architecture)
        nodes = []
        for node in range(1, OUTPUT + 1):
            terms = [
                f"{architecture[f'{source}>{target}']}~{source}"
                for source, target in EDGES
                if target == node
            ]
            nodes.append("|" + "|".join(terms) + "|")
        return "+".join(nodes)

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read the benchmark's string, or the six numbers by which NASLib names a cell."""
        if isinstance(genotype, list):
            return self._from_numbers(genotype)
        expected = "a string like |op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
        terms = re.findall(r"([a-z0-9_]+)~(\d)", genotype) if isinstance(genotype, str) else []
        chosen = {
            f"{source}>{target}": name
            for (name, _), (source, target) in zip(terms, EDGES, strict=False)
        }
        if len(terms) == len(EDGES):
            architecture = self.architecture(chosen)
            if self.to_genotype(architecture) == genotype:
                return architecture
        raise InputError("malformed", where="genotype", expected=expected, actual=repr(genotype))

    def _from_numbers(self, numbers: list[Any]) -> Architecture:
        """NASLib's `op_indices`: an operator for each edge, sorted by its source."""
        known = range(len(NASLIB_PRIMITIVES))
        if len(numbers) != len(EDGES) or any(type(n) is not int or n not in known for n in numbers):
            raise InputError(
                "malformed",
                where="genotype",
                expected=f"{len(EDGES)} numbers from 0 to {len(known) - 1}",
                actual=repr(numbers),
            )
        of_edge = dict(zip(sorted(EDGES), numbers, strict=True))
        return self.architecture({f"{a}>{b}": NASLIB_PRIMITIVES[of_edge[a, b]] for a, b in EDGES})

    def supernet(self, partial_channels: int = 1) -> Supernet:
        require_divisible(self.options.channels, partial_channels)
        return NasBench201Supernet(self, partial_channels)

    def network(self, architecture: Architecture) -> Network:
        return NasBench201Network(self, architecture)

    def live_edges(self, architecture: Architecture) -> list[int]:
        """The rows of the edges whose operators the deployed network runs."""
        # The values are needed even if the network is built on the meta device.
        with torch.device("cpu"):
            runs = self.run_probability(self.one_hot(architecture).weights).sum(dim=1)
        return [row for row in range(len(EDGES)) if runs[row] > 0]


class _Constraints:
    """Linear constraints on a number of variables, collected one by one."""

    def __init__(self, variables: int) -> None:
        self.variables = variables
        self.rows: list[np.ndarray] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, terms: list[tuple[int, float]], lower: float, upper: float = np.inf) -> None:
        """Bound a sum of (variable, coefficient) terms."""
        row = np.zeros(self.variables)
        for variable, coefficient in terms:
            row[variable] += coefficient
        self.rows.append(row)
        self.lower.append(lower)
        self.upper.append(upper)

    def program(self, auxiliary: int, runs: np.ndarray) -> DecodingProgram:
        """The program with these constraints."""
        matrix, lower, upper = np.array(self.rows), np.array(self.lower), np.array(self.upper)
        return DecodingProgram(auxiliary, matrix, lower, upper, runs)


def _minus(variables: dict[int, int], node: int) -> tuple[list[tuple[int, float]], float]:
    """A node's variable with coefficient -1, as a term on the left side of a constraint.

    A node without a variable is always reached: there is no term, and the constant 1 is added to
    the right side.
    """
    return ([(variables[node], -1.0)], 0.0) if node in variables else ([], 1.0)


class SupernetCell(nn.Module):
    """A cell in which every edge is a mixture of all primitives."""

    def __init__(self, channels: int, height: int, width: int, partial: int) -> None:
        super().__init__()
        specs = [OpSpec(name, channels, channels, height, width) for name in PRIMITIVES]
        mixed_ops = [MixedOp(specs, normalise_pools=False, partial=partial) for _ in EDGES]
        self.mixed = MixedCell(EDGES, mixed_ops)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Compute the cell's output, (N, channels, H, W) to the same shape."""
        nodes: list[Tensor] = self.mixed([x], mixture)
        return nodes[-1]


class NasBench201Supernet(Supernet):
    """The stack of cells with all candidates; all cells share the mixture."""

    def __init__(self, space: NasBench201Space, partial: int) -> None:
        super().__init__()
        self.stem = build(space.stem)
        self.layers = stack(
            space,
            [
                SupernetCell(*stage, partial)
                for stage in space.stages
                for _ in range(space.options.cells)
            ],
        )
        self.head = build(space.head)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, mixture) if isinstance(layer, SupernetCell) else layer(x)
        logits: Tensor = self.head(x)
        return logits


class NetworkCell(nn.Module):
    """A cell of one architecture; operators on dead edges are not built.

    Args:
        specs: the operator of each live edge (source, target), sorted by target.
    """

    def __init__(self, specs: dict[tuple[int, int], OpSpec]) -> None:
        super().__init__()
        self.edges = list(specs)
        self.operators = nn.ModuleList(build(spec) for spec in specs.values())

    def forward(self, x: Tensor, drop_probability: float) -> Tensor:
        """Compute the cell's output, (N, channels, H, W) to the same shape."""
        states: dict[int, Tensor] = {0: x}
        for (source, target), operator in zip(self.edges, self.operators, strict=True):
            y = operator(states[source])
            if self.training and drop_probability > 0 and not isinstance(operator, nn.Identity):
                y = drop_path(y, drop_probability)
            states[target] = states[target] + y if target in states else y
        return states[OUTPUT] if OUTPUT in states else torch.zeros_like(x)


class NasBench201Network(Network):
    """The network of one architecture."""

    def __init__(self, space: NasBench201Space, architecture: Architecture) -> None:
        super().__init__()
        live = space.live_edges(architecture)
        options = [option for _, option in architecture]
        cells: list[nn.Module] = [
            NetworkCell({EDGES[row]: OpSpec(options[row], stage[0], *stage) for row in live})
            for stage in space.stages
            for _ in range(space.options.cells)
        ]
        self.stem = build(space.stem)
        self.layers = stack(space, cells)
        self.head = build(space.head)
        self.choice_modules = {
            f"layers.{place}.operators.{i}": f"{source}>{target}"
            for place, layer in enumerate(self.layers)
            if isinstance(layer, NetworkCell)
            for i, (source, target) in enumerate(layer.edges)
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, self.drop_path) if isinstance(layer, NetworkCell) else layer(x)
        logits: Tensor = self.head(x)
        return logits
