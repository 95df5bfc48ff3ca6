"""Supernet and networks of the vision transformer space (Chen et al., ICCV 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.nn.mixed_tokens import (
    MixedAttention,
    MixedMlp,
    MixedTokens,
    layer_norm,
    linear,
    patch_embedding,
)
from hwnas.ops import build
from hwnas.ops.tokens import Attention, Mlp, PatchEmbedding
from hwnas.spaces.cells import drop_path
from hwnas.spaces.layers import SKIP
from hwnas.spaces.networks import Network
from hwnas.spaces.sharing import SharedSupernet
from hwnas.spaces.sized import SIZE

if TYPE_CHECKING:
    from hwnas.spaces.vit import VitSpace

INITIAL_STD = 0.02
"""Standard deviation of the initial weights of linear layers, as in DeiT."""


class VitSupernet(SharedSupernet):
    """The largest network, of which all other networks are parts.

    A mixture of embeddings is the weighted sum of the logits with each of them, which takes the
    time and memory of all of them together. A single path needs those of one network.
    """

    def __init__(self, space: VitSpace) -> None:
        super().__init__()
        self.space = space
        sizes = space.options
        self.embeddings = tuple(sizes.embeddings)
        largest = self.embeddings[-1]
        self.stem = build(space.patches(largest))
        heads, ratios = [*sizes.heads, 0], [*sizes.mlp_ratios, 0.0]
        self.halves = nn.ModuleList()
        for choice in space.choices[1:]:
            count = len(choice.options)
            half: MixedTokens
            if choice.name.endswith("attention"):
                half = MixedAttention(largest, heads[:count], sizes.head_channels)
            else:
                half = MixedMlp(largest, ratios[:count])
            self.halves.append(half)
        self.head = build(space.head(largest))
        initialise(self)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        active = mixture.active_options(SIZE)
        options = range(len(self.embeddings)) if active is None else active
        weights = mixture.weights[SIZE].to(x.dtype)
        return torch.stack([weights[k] * self._logits(x, mixture, k) for k in options]).sum(dim=0)

    def _logits(self, x: Tensor, mixture: Mixture, option: int) -> Tensor:
        """The logits with one of the embeddings."""
        assert isinstance(self.stem, PatchEmbedding)
        x = patch_embedding(self.stem, x, self.embeddings[option])
        for row, half in enumerate(self.halves, start=1):
            x = half(x, mixture, row)
        norm, fc = self.head.norm, self.head.fc
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(fc, nn.Linear)
        return linear(fc, layer_norm(norm, x).mean(dim=1), fc.out_features)

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        with torch.device("meta"):
            shapes = self.space.network(architecture).state_dict()
        whole = self.state_dict()
        kept = [row for row, (_, option) in enumerate(list(architecture)[1:]) if option != SKIP]
        state = {}
        for name, part in shapes.items():
            place = name.split(".")
            if place[0] == "halves":
                place[1:2] = [str(kept[int(place[1])]), "largest"]
            first = tuple(slice(size) for size in part.shape)
            state[name] = whole[".".join(place)][first].clone()
        return state


class VitNetwork(Network):
    """The network of one architecture, without the halves of blocks that it skips."""

    def __init__(self, space: VitSpace, architecture: Architecture) -> None:
        super().__init__()
        embedding = space.options.embeddings[space.chosen(architecture)[SIZE]]
        self.stem = build(space.patches(embedding))
        kept = [
            (row, name, option) for row, (name, option) in enumerate(architecture) if option != SKIP
        ][1:]
        self.halves = nn.ModuleList(
            build(space.spec(row, option, embedding)) for row, _, option in kept
        )
        self.head = build(space.head(embedding))
        initialise(self)
        first = space.choices[SIZE].name
        self.choice_modules = {"stem": first, "head": first}
        self.choice_modules |= {f"halves.{i}": name for i, (_, name, _) in enumerate(kept)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for half in self.halves:
            assert isinstance(half, Attention | Mlp)
            if self.training and self.drop_path > 0:
                x = x + drop_path(half.branch(x), self.drop_path)
            else:
                x = half(x)
        logits: Tensor = self.head(x)
        return logits


def initialise(module: nn.Module) -> None:
    """Initialise linear layers as in DeiT: truncated normal weights, and biases of zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=INITIAL_STD)
            nn.init.zeros_(layer.bias)
