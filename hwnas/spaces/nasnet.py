"""The cells of NASNet and AmoebaNet.

Zoph, Vasudevan, Shlens & Le, "Learning Transferable Architectures for Scalable Image Recognition",
CVPR 2018 (arXiv 1707.07012); Real, Aggarwal, Huang & Le, "Regularized Evolution for Image
Classifier Architecture Search", AAAI 2019 (arXiv 1802.01548).

There are two types of cell, normal and reduction. A cell has two inputs, the outputs of the two
previous cells, and several blocks. A block applies an operator to each of two earlier states and
adds the results; both states and both operators are choices. The states that no block reads are
concatenated to the cell's output.

A 1x1 convolution over concatenated maps is the sum of one over each map, and so is its cost: what a
state adds to the cells behind is a part of the cost that runs if no later block reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import out_size
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.choices import Choice
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.nasnet_networks import (
    CELL_TYPES,
    INPUTS,
    ROWS_OF_BLOCK,
    BlockCell,
    Candidates,
    Cell,
    NasnetNetwork,
    NasnetSupernet,
)
from hwnas.spaces.networks import Network, Supernet
from hwnas.spaces.options import SpaceOptions, Variants

OPERATORS = (
    "skip_connect",
    "conv_1x3_3x1",
    "conv_1x7_7x1",
    "dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "nor_conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
"""The operators of NASNet's paper, section 3; AmoebaNet's are eight of them."""
SLOTS = ("a", "b")
"""The two halves of a block."""
UNUSED = "unused"
"""The part of a state that no later block reads."""


def _known(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in OPERATORS]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"expected distinct names of {', '.join(OPERATORS)}")
    return names


class NasnetOptions(SpaceOptions):
    """Sizes of the networks; the defaults are those of NASNet-A (6 @ 768) for CIFAR-10."""

    cells: int = Field(6, ge=1, le=50, description="normal cells of each stage, N in the papers")
    channels: int = Field(
        32, ge=2, le=1024, description="channels of the first cells; each reduction doubles them"
    )
    blocks: int = Field(5, ge=1, le=8, description="blocks of a cell")
    operators: Annotated[list[str], AfterValidator(_known)] = Field(
        list(OPERATORS), min_length=1, description="operators that a block can take"
    )
    stem_multiplier: int = Field(
        3, ge=1, le=8, description="channels of the stem, as a multiple of `channels`"
    )
    keep_input: bool = Field(
        True,
        description="whether the output of a normal cell has its first input too, as in the code "
        "of both papers",
    )
    reduction_output: Literal["unused", "all"] = Field(
        "unused",
        description="which states the output of a reduction cell has: those that no block reads, "
        "or all, as in AmoebaNet-A's code",
    )


class NasnetSpace(SearchSpace):
    """NASNet's cells; the choices are `normal/2a/input`, `normal/2a/operator`, `normal/2b/input`...

    States 0 and 1 are the cell's inputs, the output of the cell before the previous one and that
    of the previous one; the blocks follow.
    """

    name = "nasnet"
    paper = (
        "Zoph et al., Learning Transferable Architectures for Scalable Image Recognition, CVPR "
        "2018, arXiv 1707.07012; Real et al., Regularized Evolution for Image Classifier "
        "Architecture Search, AAAI 2019, arXiv 1802.01548"
    )
    options_model = NasnetOptions
    variants: ClassVar[Variants] = {
        "nasnet-a": {},
        "amoebanet-a": {"channels": 36, "reduction_output": "all"},
    }
    options: NasnetOptions

    def __init__(self, options: NasnetOptions) -> None:
        self.rows_of_type = ROWS_OF_BLOCK * options.blocks
        super().__init__(options)
        self.stem = OpSpec(
            "conv_bn_3x3",
            options.input_channels,
            options.stem_multiplier * options.channels,
            options.height,
            options.width,
        )
        self.cells = self._cells()

    def _choices(self) -> tuple[Choice, ...]:
        choices = []
        for cell_type in CELL_TYPES:
            for target in range(INPUTS, INPUTS + self.options.blocks):
                for slot in SLOTS:
                    name = f"{cell_type}/{target}{slot}"
                    choices.append(Choice(f"{name}/input", tuple(map(str, range(target)))))
                    choices.append(Choice(f"{name}/operator", tuple(self.options.operators)))
        return tuple(choices)

    def _cells(self) -> list[Cell]:
        """The sizes of each cell in the stack."""
        options, sizes = self.options, [(self.options.height, self.options.width)] * 2
        types = ["normal"] * options.cells
        types = [*types, "reduce", *types, "reduce", *types]
        channels, cells = options.channels, []
        for cell_type in types:
            halves = cell_type == "reduce"
            channels *= 2 if halves else 1
            cells.append(Cell(cell_type, channels, sizes[-2], sizes[-1]))
            height, width = sizes[-1]
            sizes.append((out_size(height, 2), out_size(width, 2)) if halves else sizes[-1])
        return cells

    def is_input_row(self, row: int) -> bool:
        """Whether a choice is that of a state, and not that of an operator."""
        return row % 2 == 0

    def place(self, row: int) -> tuple[str, int]:
        """The type of cell and the state that a choice belongs to."""
        cell_type, within = divmod(row, self.rows_of_type)
        return CELL_TYPES[cell_type], INPUTS + within // ROWS_OF_BLOCK

    def readers(self, cell_type: str, state: int) -> list[int]:
        """The rows of the choices that may take a state as input."""
        first = self.rows_of_type * CELL_TYPES.index(cell_type)
        rows = range(first, first + self.rows_of_type, 2)
        return [row for row in rows if self.place(row)[1] > state]

    def always_out(self, cell_type: str) -> list[int]:
        """The states that are in the output of a type of cell, whatever is chosen."""
        last = INPUTS + self.options.blocks - 1
        if cell_type == "reduce" and self.options.reduction_output == "all":
            return list(range(INPUTS, last + 1))
        kept = [0] if cell_type == "normal" and self.options.keep_input else []
        return [*kept, last]

    def _unused_row(self, row: int) -> bool:
        """Whether a choice has the part of its block's state, if no later block reads that."""
        cell_type, target = self.place(row)
        first = row % self.rows_of_type == ROWS_OF_BLOCK * (target - INPUTS)
        return first and target not in self.always_out(cell_type)

    def _parts(self) -> tuple[tuple[str, ...], ...]:
        """Operators of reduction cells have a part behind an input, and one behind a block."""
        parts = []
        for row, choice in enumerate(self.choices):
            cell_type, target = self.place(row)
            names = list(choice.options)
            if self.is_input_row(row):
                names += [UNUSED] * self._unused_row(row)
            elif cell_type == "reduce" and target > INPUTS:
                names = [f"{n} of an input" for n in names] + [f"{n} of a block" for n in names]
            parts.append(tuple(names))
        return tuple(parts)

    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        cell_type, target = self.place(choice)
        cells = [i for i, cell in enumerate(self.cells) if cell.cell_type == cell_type]
        if self.is_input_row(choice):
            if self.parts[choice][part] != UNUSED:
                return Counter()
            return Counter(spec for i in cells for spec in self._read_later(i, share=True))
        names = self.options.operators
        source = 0 if part < len(names) else target
        specs = [self.cells[i].operator(names[part % len(names)], source) for i in cells]
        return Counter(s for s in specs if s.name != "skip_connect" or s.stride > 1)

    def _read_later(self, index: int, *, share: bool) -> list[OpSpec]:
        """What the cells behind a cell, or the head, run because of one state of its output.

        Args:
            index: of the cell.
            share: without what they run once, whatever the output has: batch norms, biases.
        """
        suffix, channels = "_share" * share, self.cells[index].channels
        specs = []
        for number, later in enumerate(self.cells[index + 1 : index + 3]):
            spec = later.preprocess(channels)[1 - number]
            specs.append(replace(spec, name=spec.name + suffix))
        if index == len(self.cells) - 1:
            head = f"relu_classifier{suffix}"
            specs.append(OpSpec(head, channels, self.options.classes, *self.cells[index].out_size))
        return specs

    def fixed_operators(self) -> Counter[OpSpec]:
        counts = Counter([self.stem])
        first = self.cells[0].preprocess(self.stem.c_out)
        counts.update(first)
        if len(self.cells) > 1:
            counts[self.cells[1].preprocess(self.stem.c_out)[0]] += 1
        for index, cell in enumerate(self.cells):
            height, width = cell.out_size
            blocks = self.options.blocks
            counts[OpSpec("add", cell.channels, cell.channels, height, width)] += blocks
            *shares, _ = self.always_out(cell.cell_type)
            counts.update(self._read_later(index, share=False))
            for _ in shares:
                counts.update(self._read_later(index, share=True))
        return counts

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The product of the probabilities of what a part depends on, which are independent.

        The rules do not differ: every block leads to the output.
        """
        # Rows need not sum to 1 (sigmoids, an auxiliary weight).
        odds = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        columns = []
        for row, choice in enumerate(self.choices):
            cell_type, target = self.place(row)
            own = odds[..., row, : len(choice.options)]
            if self.is_input_row(row):
                if self._unused_row(row):
                    own = torch.cat([own, self._unused(odds, cell_type, target)[..., None]], -1)
            elif len(self.parts[row]) > len(choice.options):
                of_input = odds[..., row - 1, :INPUTS].sum(dim=-1, keepdim=True)
                of_block = odds[..., row - 1, INPUTS:].sum(dim=-1, keepdim=True)
                own = torch.cat([own * of_input, own * of_block], dim=-1)
            missing = self.max_parts - own.shape[-1]
            columns.append(torch.nn.functional.pad(own, (0, missing)))
        return torch.stack(columns, dim=-2)

    def _unused(self, odds: Tensor, cell_type: str, state: int) -> Tensor:
        """The probability that no block reads a state."""
        rows = self.readers(cell_type, state)
        return torch.stack([1 - odds[..., row, state] for row in rows], dim=-1).prod(dim=-1)

    def output_weights(self, weights: Tensor, cell_type: str) -> list[Tensor | None]:
        """The weight of each state in the output of a cell; None for a state that is never there.

        Args:
            weights: (choices, max_options).
            cell_type: `normal` or `reduce`.
        """
        one = torch.ones_like(weights[0, 0])
        always = self.always_out(cell_type)
        found: list[Tensor | None] = [one if state in always else None for state in range(INPUTS)]
        found += [
            one if state in always else self._unused(weights, cell_type, state)
            for state in range(INPUTS, INPUTS + self.options.blocks)
        ]
        return found

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """Every choice takes one option; the other variables are what follows from that.

        Of an operator in a reduction cell, there is a variable for each option behind an input and
        behind a block. Those of an option sum to the option's, and those behind an input to whether
        an input was taken. A state is unused if no reader takes it. With binary options all of
        these are binary too, whatever they cost.
        """
        count, width = self.mask.shape
        taken = np.arange(count * width).reshape(count, width)
        runs = np.full((count, self.max_parts), -1)
        rows: list[dict[int, float]] = [dict.fromkeys(taken[row], 1.0) for row in range(count)]
        lower, upper, size = [1.0] * count, [1.0] * count, taken.size

        def constrain(terms: dict[int, float], low: float, high: float) -> None:
            rows.append(terms)
            lower.append(low)
            upper.append(high)

        for row, choice in enumerate(self.choices):
            options = len(choice.options)
            if len(self.parts[row]) <= options:
                runs[row, :options] = taken[row, :options]
            elif self.is_input_row(row):
                runs[row, :options] = taken[row, :options]
                runs[row, options] = unused = size
                cell_type, state = self.place(row)
                readers = [int(taken[reader, state]) for reader in self.readers(cell_type, state)]
                constrain({unused: 1.0} | dict.fromkeys(readers, 1.0), 1, np.inf)
                for reader in readers:
                    constrain({unused: 1.0, reader: 1.0}, -np.inf, 1)
                size += 1
            else:
                behind = size + np.arange(2 * options).reshape(2, options)
                runs[row, : 2 * options] = behind.ravel()
                size += 2 * options
                for option in range(options):
                    pair = dict.fromkeys(behind[:, option].tolist(), 1.0)
                    constrain(pair | {int(taken[row, option]): -1.0}, 0, 0)
                inputs = dict.fromkeys(taken[row - 1, :INPUTS].tolist(), -1.0)
                constrain(dict.fromkeys(behind[0].tolist(), 1.0) | inputs, 0, 0)
        matrix = np.zeros((len(rows), size))
        for number, terms in enumerate(rows):
            matrix[number, list(terms)] = list(terms.values())
        auxiliary = size - taken.size
        return DecodingProgram(auxiliary, matrix, np.array(lower), np.array(upper), runs)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.architecture([int(rng.integers(len(c.options))) for c in self.choices])

    def block_cells(self, architecture: Architecture) -> dict[str, BlockCell]:
        """The blocks of each type of cell, and the states that are in its output."""
        chosen, cells = self.chosen(architecture), {}
        for cell_type in CELL_TYPES:
            first = self.rows_of_type * CELL_TYPES.index(cell_type)
            rows = range(first, first + self.rows_of_type, 2)
            pairs = [(self.options.operators[chosen[row + 1]], chosen[row]) for row in rows]
            read = {source for _, source in pairs}
            always = self.always_out(cell_type)
            states = range(INPUTS + self.options.blocks)
            out = [s for s in states if s in always or (s >= INPUTS and s not in read)]
            names = [self.choices[row + 1].name for row in rows]
            cells[cell_type] = BlockCell(tuple(pairs), tuple(out), tuple(names))
        return cells

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """DARTS' notation: for each block two [operator, source], and the concatenated states."""
        genotype: dict[str, Any] = {}
        for cell_type, cell in self.block_cells(architecture).items():
            genotype[cell_type] = [list(pair) for pair in cell.pairs]
            genotype[f"{cell_type}_concat"] = list(cell.out)
        return genotype

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read DARTS' notation, a mapping with `normal`, `reduce` and optional concat keys."""
        options: list[str] = []
        count = len(SLOTS) * self.options.blocks
        for cell_type in CELL_TYPES:
            where = f"genotype: {cell_type}"
            try:
                pairs = [(str(name), str(int(source))) for name, source in genotype[cell_type]]
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    "malformed", where=where, expected="a list of [operator, source] pairs"
                ) from None
            if len(pairs) != count:
                raise InputError(
                    "wrong length", where=where, expected=f"{count} pairs", actual=len(pairs)
                )
            options += [option for name, source in pairs for option in (source, name)]
        names = (choice.name for choice in self.choices)
        architecture = self.architecture(dict(zip(names, options, strict=True)))
        for cell_type, cell in self.block_cells(architecture).items():
            stated = genotype.get(f"{cell_type}_concat")
            if stated is not None and stated != list(cell.out):
                raise InputError(
                    "the output of the cell has other states",
                    where=f"genotype: {cell_type}_concat",
                    expected=list(cell.out),
                    actual=stated,
                    mend="see `space.keep_input` and `space.reduction_output`",
                )
        return architecture

    def supernet(self, partial_channels: int = 1) -> Supernet:
        options = self.options
        given = Candidates(tuple(options.operators), options.blocks, self.output_weights)
        widths = {kind: options.blocks + (0 in self.always_out(kind)) for kind in CELL_TYPES}
        return NasnetSupernet(given, self.stem, self.cells, widths, options.classes)

    def network(self, architecture: Architecture) -> Network:
        blocks = self.block_cells(architecture)
        return NasnetNetwork(self.stem, self.cells, blocks, self.options.classes)
