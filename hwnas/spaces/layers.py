"""Spaces of layers: a chain of layers between a fixed stem and a fixed head, chosen independently.

A subclass of `LayerSpace` defines its choices and the operator of each option; supernet, networks
and costs follow from these.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
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
"""The option that leaves a layer out; only layers that keep the shape can have it."""


class LayerSpace(SearchSpace):
    """One operator for each choice, chosen independently of the others.

    The choices are the layers, `stage1/layer1` ..., from first to last.

    Attributes:
        stem: the operators before the layers; a subclass sets it before it calls `__init__`.
        head: the operators behind the layers; likewise.
    """

    stem: Sequence[OpSpec]
    head: Sequence[OpSpec]

    @abstractmethod
    def spec(self, choice: int, option: str) -> OpSpec:
        """The operator of one option of a layer, which may be a skip.

        The input and output shapes must not depend on the option.
        """

    def layer(self, choice: int, option: str) -> nn.Module:
        """The module of one option of a layer, in a network of a single architecture."""
        return build(self.spec(choice, option))

    def operators(self, choice: int, option: int) -> Counter[OpSpec]:
        taken = self.choices[choice].options[option]
        return Counter([] if taken == SKIP else [self.spec(choice, taken)])

    def fixed_operators(self) -> Counter[OpSpec]:
        return Counter([*self.stem, *self.head])

    def _run_probability(self, weights: Tensor, edges: EdgeRule) -> Tensor:
        """The normalised weights, since layers are independent and all chosen ones run."""
        # Rows need not sum to 1 (sigmoids, an auxiliary weight).
        return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)

    def _decoding_program(self, edges: EdgeRule) -> DecodingProgram:
        """Every layer takes exactly one option."""
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
        """The names of the options, from the first layer to the last."""
        self.validate(architecture)
        return [option for _, option in architecture]

    def from_genotype(self, genotype: Any) -> Architecture:
        """Read a list of option names."""
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
        """Build the layers of an architecture's network that are not skipped.

        Yields:
            Name of the choice, and module, of one layer after the other.
        """
        self.validate(architecture)
        for row, (name, option) in enumerate(architecture):
            if option != SKIP:
                yield name, self.layer(row, option)


class MixedLayer(nn.Module):
    """The weighted sum of a choice's operators, of which only the active ones are computed.

    Args:
        specs: one operator for each option, in the order of the options. Options with the same
            operator, which differ in training only, share its weights.
    """

    def __init__(self, specs: Sequence[OpSpec]) -> None:
        super().__init__()
        distinct = list(dict.fromkeys(specs))
        self.candidates = nn.ModuleList(build(spec, affine=False) for spec in distinct)
        self.candidate_of = [distinct.index(spec) for spec in specs]

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """The weighted sum of the options, (N, c_in, H, W) to (N, c_out, OH, OW).

        Args:
            x: input.
            mixture: of the whole space.
            choice: the row of this choice.
        """
        weights = mixture.weights[choice].to(x.dtype)
        active = mixture.active_options(choice)
        options = range(len(self.candidate_of)) if active is None else active
        out: Tensor | None = None
        for index, candidate in enumerate(self.candidates):
            own = [option for option in options if self.candidate_of[option] == index]
            if own:
                y = torch.stack([weights[k] for k in own]).sum() * candidate(x)
                out = y if out is None else out + y
        assert out is not None
        return out


class LayerSupernet(Supernet):
    """The chain of layers, each of which contains all of its candidates."""

    def __init__(self, space: LayerSpace) -> None:
        super().__init__()
        self.stem = nn.Sequential(*map(build, space.stem))
        self.layers = nn.ModuleList(
            self.mixed([space.spec(row, option) for option in choice.options])
            for row, choice in enumerate(space.choices)
        )
        self.head = nn.Sequential(*map(build, space.head))

    def mixed(self, specs: Sequence[OpSpec]) -> nn.Module:
        """One layer of the supernet, given the operator of each option."""
        return MixedLayer(specs)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        x = self.stem(x)
        for row, layer in enumerate(self.layers):
            x = layer(x, mixture, row)
        outputs: Tensor = self.head(x)
        return outputs


class LayerNetwork(Network):
    """The chain of layers of one architecture.

    Args:
        stem: the operators before the layers.
        layers: name of the choice, and module, of each layer that is not skipped.
        head: the operators behind the layers.
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
        outputs: Tensor = self.head(x)
        return outputs
