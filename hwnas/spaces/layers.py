"""Spaces of layers: a row of them between a fixed stem and a fixed head, each decided by itself.

A space of its own says what its choices are and which operator an option is at a choice's place;
everything else follows, supernet and network included.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.decoding import DecodingProgram
from hwnas.spaces.networks import Network, Supernet

SKIP = "skip_connect"
"""The option of a layer that is left out; only for layers that keep the shape."""


class LayerSpace(SearchSpace):
    """One operator for each choice, free of the others; choices are `stage1/layer1` ... in order.

    Attributes:
        stem, head: the operators before and behind the layers, set before `__init__` is called.
    """

    stem: Sequence[OpSpec]
    head: Sequence[OpSpec]

    @abstractmethod
    def spec(self, choice: int, option: str) -> OpSpec:
        """The operator of a layer that takes an option; it may be a skip.

        Whatever the option, the operator has the same inputs and outputs.
        """

    def layer(self, choice: int, option: str) -> nn.Module:
        """A layer of a finished network."""
        return build(self.spec(choice, option))

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        taken = self.choices[choice].options[option]
        return Counter([] if taken == SKIP else [self.spec(choice, taken)])

    def fixed_operators(self) -> Counter[OpSpec]:
        return Counter([*self.stem, *self.head])

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """Layers decide independently, and a network has no other edges than those it runs."""
        # Rows may have any sum (sigmoids, an auxiliary weight): they are odds.
        return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """One option a layer."""
        count = len(self.choices)
        index = np.arange(self.mask.numel()).reshape(self.mask.shape)
        matrix = np.zeros((count, index.size))
        matrix[np.arange(count)[:, None], index] = 1
        runs = np.where(self.mask.numpy(), index, -1)
        return DecodingProgram(0, matrix, np.ones(count), np.ones(count), runs)

    def validate(self, architecture: Architecture) -> None:
        self.validate_options(architecture)

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.architecture([int(rng.integers(len(c.options))) for c in self.choices])

    def to_genotype(self, architecture: Architecture) -> Any:
        """The options' names from the first layer to the last."""
        self.validate(architecture)
        return [option for _, option in architecture]

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read a list of options' names."""
        expected = f"a list of {len(self.choices)} names of options"
        if not isinstance(genotype, list) or not all(isinstance(name, str) for name in genotype):
            raise InputError(
                "malformed", where="genotype", expected=expected, actual=repr(genotype)
            )
        if len(genotype) != len(self.choices):
            raise InputError(
                "wrong length", where="genotype", expected=expected, actual=len(genotype)
            )
        names = (choice.name for choice in self.choices)
        return self.architecture(dict(zip(names, genotype, strict=True)))

    def supernet(self, partial_channels: int = 1) -> Supernet:
        return LayerSupernet(self)

    def network(self, architecture: Architecture) -> Network:
        return LayerNetwork(self.stem, self.kept_layers(architecture), self.head)

    def kept_layers(self, architecture: Architecture) -> Iterator[tuple[str, nn.Module]]:
        """The layers of an architecture's network, each with its choice, built one by one."""
        self.validate(architecture)
        for row, (name, option) in enumerate(architecture):
            if option != SKIP:
                yield name, self.layer(row, option)


class MixedLayer(nn.Module):
    """The weighted sum of a choice's operators; only the active ones are computed.

    Args:
        specs: one operator for each option, in the order of the options. Options of one operator
            (which differ in training alone) share its weights.
    """

    def __init__(self, specs: Sequence[OpSpec]) -> None:
        super().__init__()
        distinct = list(dict.fromkeys(specs))
        self.candidates = nn.ModuleList(build(spec, affine=False) for spec in distinct)
        self.candidate_of = [distinct.index(spec) for spec in specs]

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """The mixture of a choice, (N, c_in, H, W) in."""
        weights = mixture.weights[choice].to(x.dtype)
        active = mixture.active_options(choice)
        options = range(len(self.candidate_of)) if active is None else active
        out = None
        for index, candidate in enumerate(self.candidates):
            own = [option for option in options if self.candidate_of[option] == index]
            if own:
                y = weights[own].sum() * candidate(x)
                out = y if out is None else out + y
        assert out is not None
        return out


class LayerSupernet(Supernet):
    """All layers with all candidates."""

    def __init__(self, space: LayerSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*map(build, space.stem))
        self.layers = nn.ModuleList(
            self.mixed([space.spec(row, option) for option in choice.options])
            for row, choice in enumerate(space.choices)
        )
        self.head = nn.Sequential(*map(build, space.head))

    def mixed(self, specs: Sequence[OpSpec]) -> nn.Module:
        """One layer, of an operator for each option."""
        return MixedLayer(specs)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        x = self.stem(x)
        for row, layer in enumerate(self.layers):
            x = layer(x, mixture, row)
        return self.head(x)


class LayerNetwork(Network):
    """A row of layers.

    Args:
        stem, head: the operators before and behind the layers.
        layers: each with the choice that it runs because of; what is skipped is not there.
    """

    def __init__(
        self,
        stem: Sequence[OpSpec],
        layers: Iterable[tuple[str, nn.Module]],
        head: Sequence[OpSpec],
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*map(build, stem))
        named = list(layers)
        self.blocks = nn.ModuleList(layer for _, layer in named)
        self.head = nn.Sequential(*map(build, head))
        self.choice_modules = {f"blocks.{i}": name for i, (name, _) in enumerate(named)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
