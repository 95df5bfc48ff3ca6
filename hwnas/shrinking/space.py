"""The search space of the networks that a trained network can be shrunk to.

Its choices are the widths of the groups of channels, whether a residual block stays, and the size
to which inputs are resized. The parts of its cost are the network's layers at every combination of
the widths and sizes that they depend on, so that pairs of input and output widths are priced as
they were measured.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.nn.decisions import Decision
from hwnas.shrinking.channels import ChannelGroup, Left, channel_groups, narrowed
from hwnas.shrinking.layers import KEEP, LayerWalk, removable_blocks, remove_block
from hwnas.shrinking.resolution import NAME as SIZE_NAME
from hwnas.shrinking.resolution import Size, in_words, resizing, smaller_sizes
from hwnas.spaces.traced.extraction import Extracted
from hwnas.spaces.traced.finding import Assignment, Finding
from hwnas.spaces.traced.naming import Named
from hwnas.spaces.traced.operators import operator_of
from hwnas.spaces.traced.space import TracedNetwork, TracedSpace
from hwnas.spaces.traced.walk import Piece, Walk

MOST_WIDTHS = 8
"""Widths of a group that are offered at most."""
LEAST_SHARE = 1 / 8
"""The smallest width that is offered, as a share of the group's."""
MOST_OPERATORS = 400
"""Operators in the space at most; with more, fewer widths of each group are offered."""
BLOCK_OPTIONS = ("keep", "remove")


@dataclass
class LayerFinding(Finding):
    """What is found in a trained network.

    Attributes:
        groups: the group of channels of each row that is a width.
        widths_of: the widths that are offered, by row.
        blocks: the row of each block that may go, by its path.
        size_row: the row of the input's size, if it may be smaller.
        sizes: the sizes that are offered.
        layer_of: the layer of each node, see `LayerWalk`; that of the first walk, which is through
            the whole network.
    """

    groups: Mapping[int, ChannelGroup] = field(default_factory=dict)
    widths_of: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    size_row: int | None = None
    sizes: tuple[Size, ...] = ()
    layer_of: Mapping[str, str] | None = None

    def _walk(self, assignment: Assignment) -> Walk:
        if assignment not in self.walks:
            kept = {
                group.name: range(self.widths_of[row][assignment[row]] // group.unit)
                for row, group in self.groups.items()
            }
            model = narrowed(self.model, self.groups.values(), kept)
            inputs = self.inputs
            if self.size_row is not None and assignment[self.size_row] < len(self.sizes) - 1:
                inputs = tuple(map(resizing(self.sizes[assignment[self.size_row]]), inputs))
            walk = LayerWalk(model, inputs, {}, blocks=self.blocks, layer_of=self.layer_of)
            walk.run()
            walk.pieces += self._resizing()
            self.layer_of = walk.layer_of
            self.walks[assignment] = walk
        return self.walks[assignment]

    def _resizing(self) -> list[Piece]:
        """What resizes the inputs, for each smaller size; the same in all walks."""
        pieces = []
        for option, size in enumerate(self.sizes[:-1]):
            assert self.size_row is not None
            (images,), module = self.inputs, resizing(size)
            operator = operator_of(module, (images,), module(images), reads_input=False)
            pieces.append(Piece(operator, ((self.size_row, (option,)),)))
        return pieces

    def operators_with(self, most: int, step: int) -> int:
        """About how many operators there are if so many widths of each group are offered."""
        first = self.walks[self.largest]
        counts = {row: len(offered_widths(group, most, step)) for row, group in self.groups.items()}
        wide = {row: group.width for row, group in self.groups.items()}
        if self.size_row is not None:
            counts[self.size_row] = wide[self.size_row] = len(self.sizes)
        kinds = {
            (piece.operator.spec, tuple(wide[row] for row in rows)): math.prod(
                counts[row] for row in rows
            )
            for piece, rows in zip(first.pieces, self.depending, strict=True)
        }
        return sum(kinds.values())


class ShrinkSpace(TracedSpace):
    """The networks that a trained network can be shrunk to.

    Attributes:
        groups: the groups of channels, by row.
        left: channels that stay as they are.
        size_row: the row of the input's size, None if that stays.
        sizes: the sizes that are offered, ascending; the last is the whole.
    """

    def __init__(self, finding: LayerFinding, left: Sequence[Left]) -> None:
        super().__init__(finding)
        self.groups = dict(finding.groups)
        self.left = tuple(left)
        self.size_row, self.sizes = finding.size_row, finding.sizes
        self._widths_of = dict(finding.widths_of)
        self._blocks = dict(finding.blocks)
        self._row_of_layer = {
            one.layer: row
            for row, group in self.groups.items()
            for one in group.slices
            if not one.reads
        }

    @property
    def whole(self) -> Architecture:
        """The network as it was given."""
        blocks = set(self._blocks.values())
        return self.architecture(
            [
                KEEP if row in blocks else len(choice.options) - 1
                for row, choice in enumerate(self.choices)
            ]
        )

    def widths(self, architecture: Architecture) -> dict[str, int]:
        """The number of channels of each group, by its name; without those of removed blocks."""
        chosen = self.chosen(architecture)
        idle = self.idle(chosen)
        return {
            group.name: self._widths_of[row][chosen[row]]
            for row, group in self.groups.items()
            if row not in idle
        }

    def removed(self, architecture: Architecture) -> list[str]:
        """The paths of the blocks that are left out."""
        chosen = self.chosen(architecture)
        return [path for path, row in self._blocks.items() if chosen[row] != KEEP]

    def at_size(self, architecture: Architecture, option: int) -> Architecture:
        """An architecture with another size of the input."""
        assert self.size_row is not None
        chosen = list(self.chosen(architecture))
        chosen[self.size_row] = option
        return self.architecture(chosen)

    def network_of(
        self,
        model: nn.Module,
        architecture: Architecture,
        choice_modules: Mapping[str, str] | None = None,
    ) -> TracedNetwork:
        """The module of an architecture as a network, which resizes its inputs if it has to."""
        resize = None
        if self.size_row is not None:
            size = self.sizes[self.chosen(architecture)[self.size_row]]
            resize = None if size == self.sizes[-1] else resizing(size)
        return TracedNetwork(model, self, choice_modules or {}, resize)

    def network(self, architecture: Architecture) -> TracedNetwork:
        module, rows = self._extracted(architecture)
        names = {path: self.choices[of[-1]].name for path, of in rows.items()}
        return self.network_of(module, architecture, names)

    def has(self, group: ChannelGroup) -> bool:
        """Whether a group that was found in one of the space's networks has a width here."""
        return group.name in self._row_of_layer

    def row_of(self, group: ChannelGroup) -> int:
        """The row of a group that was found in one of the space's networks."""
        return self._row_of_layer[group.name]

    def offered(self, row: int) -> tuple[int, ...]:
        """The widths of a row that is a width, ascending."""
        return self._widths_of[row]

    @property
    def blocks(self) -> Mapping[str, int]:
        """The row of each block that may go, by its path."""
        return self._blocks

    def shrunk(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        architecture: Architecture,
        importance: Mapping[str, np.ndarray] | None = None,
    ) -> nn.Module:
        """A copy of a network that is narrowed to an architecture.

        Args:
            model: the space's model, or a network of an architecture that is at least as large.
            groups: the groups in that network.
            architecture: what it becomes.
            importance: of each unit (units,), by group; the most important units stay. The first
                ones stay if None.
        """
        chosen, kept = self.chosen(architecture), {}
        for group in groups:
            row = self.row_of(group)
            units = self._widths_of[row][chosen[row]] // group.unit
            if row in self.idle(chosen):
                continue  # its block goes
            values = np.arange(group.units, 0, -1) if importance is None else importance[group.name]
            kept[group.name] = sorted(np.argsort(-values, kind="stable")[:units].tolist())
        smaller = narrowed(model, groups, kept)
        for path in self.removed(architecture):
            remove_block(smaller, path)
        return smaller

    def _extracted(self, architecture: Architecture) -> Extracted:
        model = self.shrunk(self.model, list(self.groups.values()), architecture)
        removed = tuple(f"{path}." for path in self.removed(architecture))
        paths: dict[str, tuple[int, ...]] = {
            layer: (row,)
            for layer, row in self._row_of_layer.items()
            if not layer.startswith(removed)
        }
        return model, paths


def shrink_space(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    step: int = 8,
    most_operators: int = MOST_OPERATORS,
    remove_blocks: bool = True,
    resolutions: Sequence[float] = (),
) -> ShrinkSpace:
    """Find what can be taken away from a trained network.

    Args:
        model: an ordinary module; it is copied and not changed.
        example_inputs: a batch of inputs (N, ...), or one for each argument of `forward`.
        step: widths are multiples of it, where a group has enough of them.
        most_operators: about how many layers at different widths are to be measured; the more, the
            more widths of each group are offered.
        remove_blocks: whether residual blocks may be left out.
        resolutions: shares of the height and width of images to which they may be resized.

    Raises:
        InputError: for a model that does not run, cannot be traced, or of which nothing can go, or
            that does not run on smaller images.
        RuntimeMissingError: when Torch-Pruning is not installed.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not isinstance(model, nn.Module):
        raise InputError(
            "not a model", where="model", expected="a torch.nn.Module", actual=type(model).__name__
        )
    inputs = tuple(torch.cat([x[:2].detach().cpu()] * 2)[:2] for x in inputs)
    model = copy.deepcopy(model).cpu().eval()
    groups, left = channel_groups(model, inputs)
    blocks = removable_blocks(model, inputs) if remove_blocks else []
    sizes = smaller_sizes(model, inputs, resolutions)
    if not groups and not blocks and not sizes:
        raise InputError(
            "nothing can be taken away from this model",
            where="model",
            actual="; ".join(f"{one.name}: {one.reason}" for one in left[:3]) or "no layers",
        )
    if any(x.dim() == 4 for x in inputs):
        # It is faster, but code such as `x.view(len(x), -1)` does not run in it.
        with contextlib.suppress(InputError):
            last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return _found(model, last, groups, left, blocks, sizes, step, most_operators, True)
        model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return _found(model, inputs, groups, left, blocks, sizes, step, most_operators, False)


def offered_widths(group: ChannelGroup, most: int, step: int) -> tuple[int, ...]:
    """The widths of a group that are offered, ascending; the last is the whole.

    Args:
        group: the group.
        most: how many, at least 2.
        step: all but the last are multiples of it, or of a half, a quarter ... of it where the
            group is too narrow for so many.
    """
    step = max(1, step)
    while step > 1 and (step % group.unit or group.width // step < min(most, MOST_WIDTHS) // 2):
        step //= 2
    step = max(step, group.unit)
    least = max(step, math.ceil(group.width * LEAST_SHARE))
    smaller = [w for w in range(step, group.width, step) if w >= least and not w % group.unit]
    if len(smaller) > most - 1:
        places = np.linspace(0, len(smaller) - 1, most - 1).round().astype(int)
        smaller = [smaller[k] for k in dict.fromkeys(places.tolist())]
    return (*smaller, group.width)


def _found(
    model: nn.Module,
    inputs: Sequence[Tensor],
    groups: Sequence[ChannelGroup],
    left: Sequence[Left],
    blocks: Sequence[str],
    sizes: tuple[Size, ...],
    step: int,
    most_operators: int,
    channels_last: bool,
) -> ShrinkSpace:
    """The space, with as many widths of each group as the number of operators allows."""
    groups, left = list(groups), list(left)
    while True:
        narrow = [g for g in groups if len(offered_widths(g, 2, step)) < 2]
        left += [Left(g.name, f"{g.width} channels are the fewest") for g in narrow]
        groups = [g for g in groups if g not in narrow]
        probe = _finding(model, inputs, groups, blocks, sizes, 2, step, channels_last)
        probe._find_dependences()
        if probe.operators_with(2, step) <= most_operators or len(groups) < 2:
            break
        # The layer that reads the most groups, as behind a long concatenation.
        rows = max(probe.depending, key=len)
        read = [probe.groups[row] for row in rows if row in probe.groups]
        worst = min(read, key=lambda group: group.width)
        left.append(Left(worst.name, "too many combinations of widths would have to be measured"))
        groups.remove(worst)
    most = max(
        (k for k in range(2, MOST_WIDTHS + 1) if probe.operators_with(k, step) <= most_operators),
        default=2,
    )
    finding = _finding(model, inputs, groups, blocks, sizes, most, step, channels_last)
    finding._look()
    return ShrinkSpace(finding, left)


def _finding(
    model: nn.Module,
    inputs: Sequence[Tensor],
    groups: Sequence[ChannelGroup],
    blocks: Sequence[str],
    sizes: tuple[Size, ...],
    most: int,
    step: int,
    channels_last: bool,
) -> LayerFinding:
    """A finding before anything was looked at: blocks first, since widths depend on them."""
    first = len(blocks)
    widths_of = {first + k: offered_widths(g, most, step) for k, g in enumerate(groups)}
    named = [Named(Decision(BLOCK_OPTIONS, path), path) for path in blocks]
    for row, widths in widths_of.items():
        name = groups[row - first].name
        named.append(Named(Decision(map(str, widths), name), name))
    size_row = len(named) if sizes else None
    if sizes:
        named.append(Named(Decision(map(in_words, sizes), SIZE_NAME), SIZE_NAME))
    return LayerFinding(
        model,
        tuple(inputs),
        named,
        channels_last,
        row_of={one.decision: row for row, one in enumerate(named)},
        widths=[*widths_of, *([] if size_row is None else [size_row])],
        groups={first + k: group for k, group in enumerate(groups)},
        widths_of=widths_of,
        blocks={path: row for row, path in enumerate(blocks)},
        size_row=size_row,
        sizes=sizes,
    )
