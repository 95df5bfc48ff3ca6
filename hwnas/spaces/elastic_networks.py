"""Supernet and networks of the elastic space (Cai et al., ICLR 2020, arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.nn.elastic_block import ElasticBlock, Reordering
from hwnas.ops import build
from hwnas.ops.mobile import MBConv
from hwnas.ops.resized import resize
from hwnas.spaces.mbconv import MbconvNetwork
from hwnas.spaces.sharing import SharedSupernet
from hwnas.spaces.sized import SIZE

if TYPE_CHECKING:
    from hwnas.spaces.elastic import ElasticSpace


class ElasticSupernet(SharedSupernet):
    """The largest network, of which all other networks are parts.

    A mixture of resolutions is the weighted sum of the network's outputs at each of them, a mixture
    of depths the weighted sum of the outputs of a stage's layers. A single path needs the time and
    memory of one network.

    The phases of training add first the smaller kernels, then smaller depths and last smaller
    expansions, one after the other (progressive shrinking, section 3.3). All resolutions are
    trained from the start.
    """

    def __init__(self, space: ElasticSpace) -> None:
        super().__init__()
        self.space = space
        last = len(space.layouts) - 1
        # Without resizing, which differs between resolutions and is done in `_outputs`.
        self.stem = nn.Sequential(*map(build, space.layouts[last][0]))
        self.blocks = nn.ModuleList()
        for row in space.layer_rows:
            spec = space.spec(row, len(space.sizes) - 1, last)
            block = build(spec)
            assert isinstance(block, MBConv)
            sizes = [(kernel, expansion * spec.c_in) for kernel, expansion in space.sizes]
            self.blocks.append(ElasticBlock(block, sizes))
        self.head = nn.Sequential(*map(build, space.head(last)))
        self._trained_options = _trained_options(space)
        self.phases = len(self._trained_options) - 1

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        active = mixture.active_options(SIZE)
        sizes = range(len(self.space.layouts)) if active is None else active
        weights = mixture.weights[SIZE].to(x.dtype)
        return torch.stack([weights[k] * self._outputs(x, mixture, k) for k in sizes]).sum(dim=0)

    def _outputs(self, x: Tensor, mixture: Mixture, size: int) -> Tensor:
        """The head's outputs at one of the resolutions."""
        x = self.stem(resize(x, self.space.options.input_sizes[size]))
        layer = 0
        for row, depths in self.space.depths:
            x = self._stage(x, mixture, layer, row, depths)
            layer += depths[-1]
        outputs: Tensor = self.head(x)
        return outputs

    def _stage(
        self, x: Tensor, mixture: Mixture, first: int, row: int, depths: Sequence[int]
    ) -> Tensor:
        """The weighted sum of a stage's outputs at each depth.

        Only as many layers run as the largest active depth has.

        Args:
            x: the input of the stage.
            mixture: of the whole space.
            first: number of the stage's first layer.
            row: of the choice of the stage's depth.
            depths: the options of this choice.
        """
        active = mixture.active_options(row)
        options = range(len(depths)) if active is None else active
        weight_of = {depths[k]: mixture.weights[row, k].to(x.dtype) for k in options}
        outputs = []
        for number, layer in enumerate(range(first, first + max(weight_of)), start=1):
            x = self.blocks[layer](x, mixture, self.space.layer_rows[layer])
            if number in weight_of:
                outputs.append(weight_of[number] * x)
        return torch.stack(outputs).sum(dim=0)

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        space = self.space
        chosen = space.chosen(architecture)
        state: dict[str, Tensor] = {}
        for name, module in (("stem", self.stem), ("head", self.head)):
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for number, row in enumerate(space.running_layers(architecture)):
            block = self.blocks[space.layer_rows.index(row)]
            assert isinstance(block, ElasticBlock)
            own = block.weights_of(chosen[row])
            state |= {f"blocks.{number}.{key}": value for key, value in own.items()}
        return {name: value.detach().clone() for name, value in state.items()}

    def at_phase(self, architecture: Architecture, phase: int) -> Architecture:
        kernels, depths, expansions = self._trained_options[phase]
        space = self.space
        chosen = space.chosen(architecture)
        # A layer that is no longer idle copies the layer before it, which is in the same stage.
        for row in space.idle(chosen):
            chosen[row] = chosen[row - 1]
        for row, numbers in space.depths:
            chosen[row] = max(chosen[row], len(numbers) - depths)
        for row in space.layer_rows:
            kernel, expansion = divmod(chosen[row], len(space.options.expansions))
            kernel = max(kernel, len(space.options.kernels) - kernels)
            expansion = max(expansion, len(space.options.expansions) - expansions)
            chosen[row] = kernel * len(space.options.expansions) + expansion
        return space.architecture(chosen)

    def reordering(self, phase: int) -> list[Reordering]:
        """Sort the channels of the smallest trained expansion if a phase adds a smaller one."""
        _, _, before = self._trained_options[phase - 1]
        if self._trained_options[phase][2] == before:
            return []
        smallest = self.space.options.expansions[-before]
        found: list[Reordering] = []
        for block in self.blocks:
            assert isinstance(block, ElasticBlock)
            found += block.importance_order(smallest * block.largest.expand.in_channels)
        return found


def _trained_options(space: ElasticSpace) -> list[tuple[int, int, int]]:
    """How many of the largest kernels, depths and expansions are trained in each phase."""
    kernels, expansions = len(space.options.kernels), len(space.options.expansions)
    depths = max(len(numbers) for _, numbers in space.depths)
    phases = [(1, 1, 1), (kernels, 1, 1)]
    phases += [(kernels, depth, 1) for depth in range(2, depths + 1)]
    phases += [(kernels, depths, expansion) for expansion in range(2, expansions + 1)]
    return list(dict.fromkeys(phases))


class ElasticNetwork(MbconvNetwork):
    """The network of one architecture, which resizes the image itself."""

    def __init__(self, space: ElasticSpace, architecture: Architecture) -> None:
        chosen = space.chosen(architecture)
        size = chosen[SIZE]
        rows = space.running_layers(architecture)
        super().__init__(
            space.stem(size),
            ((space.choices[row].name, build(space.spec(row, chosen[row], size))) for row in rows),
            space.head(size),
        )
        first = space.choices[SIZE].name
        self.choice_modules |= {"stem": first, "head": first}
