"""Elastic mobile networks, which share the weights of the largest network (Once-for-All).

Cai, Gan, Wang, Zhang & Han, "Once-for-All: Train One Network and Specialize it for Efficient
Deployment", ICLR 2020 (arXiv 1908.09791), on the layouts of `mbconv`.

The choices are the resolution of the image, the depth of each stage, and the kernel size and
expansion of each layer. Every network is a part of the largest one: it has the first layers of a
stage and the first hidden channels of a layer, and its kernels are computed from the centres of
larger ones. Networks therefore inherit their weights from the supernet.

A network reads images of the data's size and resizes them itself, so that an exported model is
complete. The cost of a layer depends on the resolution, which is the size of `SizedSpace`; whether
it runs depends on the depth of its stage.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.elastic_block import ElasticBlock, Reordering
from hwnas.ops import build
from hwnas.ops.mobile import MBConv
from hwnas.ops.resized import resize, resized
from hwnas.spaces.choices import Choice
from hwnas.spaces.layouts import IMAGENET, Layer, LayoutOptions, lay_out
from hwnas.spaces.mbconv import MbconvNetwork
from hwnas.spaces.networks import Network
from hwnas.spaces.options import Variants
from hwnas.spaces.sharing import SharedSupernet
from hwnas.spaces.sized import SIZE, Condition, SizedSpace


class ElasticOptions(LayoutOptions):
    """Sizes of the networks; the defaults are the paper's, on the layout of ProxylessNAS."""

    layout: Literal["fbnet", "proxylessnas", "small"] = Field(
        "proxylessnas", description="stages, channels and strides"
    )
    resolutions: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        [],
        max_length=8,
        description="heights of the resized image to choose from; by default the image's height",
    )
    kernels: list[Literal[3, 5, 7]] = Field(
        [3, 5, 7], min_length=1, description="kernel sizes to choose from in every layer"
    )
    expansions: list[Literal[1, 3, 4, 6]] = Field(
        [3, 4, 6],
        min_length=1,
        description="ratios of hidden to input channels to choose from in every layer",
    )
    least_layers: int = Field(
        2, ge=1, description="smallest depth of a stage that has at least this many layers"
    )

    @field_validator("resolutions", "kernels", "expansions")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        if any(first >= second for first, second in pairwise(value)):
            raise ValueError("expected ascending numbers")
        return value

    @model_validator(mode="after")
    def _at_most_as_high_as_the_image(self) -> ElasticOptions:
        if self.resolutions and self.resolutions[-1] > self.height:
            raise ValueError(f"resolutions: expected at most {self.height}, the image's height")
        return self

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the resized image at each resolution; its aspect ratio is kept."""
        heights = self.resolutions or [self.height]
        return [(h, max(1, round(h * self.width / self.height))) for h in heights]


class ElasticSpace(SizedSpace):
    """The choices are `resolution`, then `stage1/depth`, `stage1/layer1` ... for each stage.

    Layers beyond the depth of their stage are idle.

    Attributes:
        sizes: kernel size and expansion of each option of a layer.
        layouts: stem, layers and head at each resolution.
        stages: the layers of each stage, at the largest resolution.
        depths: for each stage the row of its depth, and the depths to choose from.
        layer_rows: the row of each layer.
    """

    name = "elastic"
    paper = (
        "Cai et al., Once-for-All: Train One Network and Specialize it for Efficient Deployment, "
        "ICLR 2020, arXiv 1908.09791"
    )
    options_model = ElasticOptions
    # The paper's networks for 128 to 224 pixels, with three of its 25 resolutions.
    variants: ClassVar[Variants] = {
        "ofa": {"resolutions": [128, 176, 224], **IMAGENET},
        "small": {"layout": "small", "kernels": [3, 5], "expansions": [1, 3, 6]},
    }
    options: ElasticOptions

    def __init__(self, options: ElasticOptions) -> None:
        self.sizes = list(itertools.product(options.kernels, options.expansions))
        self.layouts = [lay_out(options, size) for size in options.input_sizes]
        self.stages: list[list[Layer]] = []
        for layer in self.layouts[-1][1]:
            if layer.name.endswith("/layer1"):
                self.stages.append([])
            self.stages[-1].append(layer)
        super().__init__(options)

    def _choices(self) -> tuple[Choice, ...]:
        blocks = tuple(f"mbconv_{k}x{k}_e{e}" for k, e in self.sizes)
        choices = [Choice("resolution", tuple(f"r{h}" for h, _ in self.options.input_sizes))]
        self.depths: list[tuple[int, tuple[int, ...]]] = []
        self.layer_rows: list[int] = []
        self._conditions: dict[int, Condition] = {}
        for stage in self.stages:
            least = min(self.options.least_layers, len(stage))
            depths = tuple(range(least, len(stage) + 1))
            depth_row = len(choices)
            name = stage[0].name.replace("layer1", "depth")
            choices.append(Choice(name, tuple(f"d{depth}" for depth in depths)))
            self.depths.append((depth_row, depths))
            for number, layer in enumerate(stage, start=1):
                if number > least:
                    deep = tuple(k for k, depth in enumerate(depths) if depth >= number)
                    self._conditions[len(choices)] = depth_row, deep
                self.layer_rows.append(len(choices))
                choices.append(Choice(layer.name, blocks))
        return tuple(choices)

    def _has_operator(self, row: int, option: int) -> bool:
        return row in self.layer_rows

    def _condition(self, row: int) -> Condition | None:
        return self._conditions.get(row)

    def idle(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """The layers beyond the depth of their stage; the depth is decided before them."""
        return tuple(
            row for row, (depth, deep) in self._conditions.items() if chosen[depth] not in deep
        )

    def open_options(self, decided: Sequence[int]) -> tuple[int, ...]:
        row = len(decided)
        condition = self._condition(row)
        if condition is not None and decided[condition[0]] not in condition[1]:
            return (0,)
        return super().open_options(decided)

    def operators(self, choice: int, part: int) -> Counter[OpSpec]:
        size, option = self.part_size[choice, part], self.part_option[choice, part]
        if choice == SIZE:
            return Counter([*self.stem(size), *self.head(size)])
        return Counter([self.spec(choice, option, size)] if choice in self.layer_rows else [])

    def fixed_operators(self) -> Counter[OpSpec]:
        """None, since every operator depends on the resolution."""
        return Counter()

    def spec(self, row: int, option: int, size: int) -> OpSpec:
        """The operator of one option of a layer at one of the resolutions."""
        name = f"{self.choices[row].options[option]}_{self.options.layout_activation}"
        return self.layouts[size][1][self.layer_rows.index(row)].spec(name)

    def stem(self, size: int) -> list[OpSpec]:
        """The operators before the layers at one of the resolutions; the first one resizes."""
        first, *rest = self.layouts[size][0]
        return [resized(first, self.options.height, self.options.width), *rest]

    def head(self, size: int) -> list[OpSpec]:
        """The operators behind the layers at one of the resolutions."""
        return self.layouts[size][2]

    def size(self) -> int:
        """The number of architectures, in which idle layers are not counted."""
        blocks = len(self.sizes)
        of_stages: list[int] = [sum(blocks**d for d in depths) for _, depths in self.depths]
        return len(self.layouts) * math.prod(of_stages)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)
        message = "a layer beyond the depth of its stage must take its first option"
        self.validate_idle(architecture, message)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every choice uniformly, as the paper does in training.

        The distribution is not uniform over architectures: there are fewer shallow networks, but
        each depth is equally likely.
        """
        return self.architecture([int(rng.integers(len(c.options))) for c in self.choices])

    def running_layers(self, architecture: Architecture) -> list[int]:
        """The rows of the layers that an architecture has."""
        idle = self.idle(self.chosen(architecture))
        return [row for row in self.layer_rows if row not in idle]

    def to_genotype(self, architecture: Architecture) -> dict[str, Any]:
        """Resolution, depth of each stage, and kernel and expansion of each layer that runs."""
        chosen = self.chosen(architecture)
        sizes = [self.sizes[chosen[row]] for row in self.running_layers(architecture)]
        return {
            "resolution": self.options.input_sizes[chosen[SIZE]][0],
            "depths": [depths[chosen[row]] for row, depths in self.depths],
            "kernels": [kernel for kernel, _ in sizes],
            "expansions": [expansion for _, expansion in sizes],
        }

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read the notation that `to_genotype` writes."""
        try:
            chosen = [0] * len(self.choices)
            heights = [height for height, _ in self.options.input_sizes]
            chosen[SIZE] = heights.index(genotype["resolution"])
            for (row, depths), depth in zip(self.depths, genotype["depths"], strict=True):
                chosen[row] = depths.index(depth)
            idle = self.idle(chosen)
            running = [row for row in self.layer_rows if row not in idle]
            layers = zip(running, genotype["kernels"], genotype["expansions"], strict=True)
            for row, kernel, expansion in layers:
                chosen[row] = self.sizes.index((kernel, expansion))
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(
                "malformed or of another space",
                where="genotype",
                expected=f"an object of resolution, {len(self.depths)} depths, and kernels and "
                "expansions of as many layers as these are",
                actual=repr(genotype),
            ) from None
        return self.architecture(chosen)

    def supernet(self, partial_channels: int = 1) -> ElasticSupernet:
        return ElasticSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return ElasticNetwork(self, architecture)


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
