"""Choices of a vision transformer's supernet: options are first parts of the largest one's weights.

Weights are entangled as in Chen et al., "AutoFormer", ICCV 2021 (arXiv 2107.00651): an option of
fewer heads, hidden channels or embedding channels has the first ones. So a supernet holds no more
weights than its largest network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hwnas.architecture import Mixture
from hwnas.ops.tokens import (
    Attention,
    Mlp,
    PatchEmbedding,
    join_heads,
    mlp_channels,
)


class MixedTokens(nn.Module):
    """The options of one half of an encoder block, in one pass.

    A branch ends in a linear layer, so its output is a bias and a sum of what each unit, a head or
    a hidden channel, adds. The weighted sum of the options is therefore one branch whose units are
    weighed by all the options that have them, exactly.

    Attributes:
        recompute: "nothing", or else the branch is computed again in the backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recompute = "nothing"

    @abstractmethod
    def units(self, channels: int) -> Sequence[int]:
        """Number of units of each option for tokens of so many channels; 0 for a skip."""

    @abstractmethod
    def branch(self, x: Tensor, weights: Tensor) -> Tensor:
        """All but the residual connection.

        Args:
            x: (N, T, C), at most the channels of the largest option.
            weights: (n,), of the first n units. The first is the bias's too, which all options
                have that have any unit.
        """

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """(N, T, C) of (N, T, C).

        Args:
            x: input.
            mixture: of the whole space.
            choice: the row of this choice.
        """
        units = self.units(x.shape[-1])
        active = mixture.active_options(choice)
        options = list(range(len(units)) if active is None else active)
        weights = mixture.weights[choice, options].to(x.dtype)
        counts = torch.tensor([units[k] for k in options], device=x.device)
        largest = max(units[k] for k in options)
        out = weights.sum() * x
        if largest == 0:
            return out
        has_unit = torch.arange(largest, device=x.device) < counts[:, None]
        of_units = (weights[:, None] * has_unit).sum(dim=0)
        if self.recompute == "nothing" or not torch.is_grad_enabled():
            return out + self.branch(x, of_units)
        branch = checkpoint(self.branch, x, of_units, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(branch, Tensor)
        return out + branch


class MixedAttention(MixedTokens):
    """Attentions of several numbers of heads.

    Args:
        channels: of the largest embedding.
        heads: of each option; 0 for a skip.
        head_channels: of each head.
    """

    def __init__(self, channels: int, heads: Sequence[int], head_channels: int) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.largest = Attention(channels, max(heads), head_channels)

    def units(self, channels: int) -> Sequence[int]:
        return self.heads

    def branch(self, x: Tensor, weights: Tensor) -> Tensor:
        module, outputs = self.largest, len(weights) * self.largest.head_channels
        normed = layer_norm(module.norm, x)
        q, k, v = (
            module.split(linear(layer, normed, outputs))
            for layer in (module.query, module.key, module.value)
        )
        values = module.product(q, k, v) * weights.view(-1, 1, 1)
        return linear(module.projection, join_heads(values), x.shape[-1], weights[0])


class MixedMlp(MixedTokens):
    """MLPs of several ratios of hidden to embedding channels.

    Args:
        channels: of the largest embedding.
        ratios: of each option; 0 for a skip.
    """

    def __init__(self, channels: int, ratios: Sequence[float]) -> None:
        super().__init__()
        self.ratios = tuple(ratios)
        self.largest = Mlp(channels, max(ratios))

    def units(self, channels: int) -> Sequence[int]:
        return [mlp_channels(channels, ratio) if ratio else 0 for ratio in self.ratios]

    def branch(self, x: Tensor, weights: Tensor) -> Tensor:
        module = self.largest
        hidden = module.act(linear(module.expand, layer_norm(module.norm, x), len(weights)))
        return linear(module.project, hidden * weights, x.shape[-1], weights[0])


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The first channels of a layer norm, as many as the input has."""
    channels = x.shape[-1]
    return F.layer_norm(x, (channels,), norm.weight[:channels], norm.bias[:channels], norm.eps)


def linear(layer: nn.Linear, x: Tensor, outputs: int, bias_weight: Tensor | None = None) -> Tensor:
    """The first inputs of a linear layer, as many as there are, to its first outputs."""
    bias = layer.bias[:outputs]
    weight = layer.weight[:outputs, : x.shape[-1]]
    return F.linear(x, weight, bias if bias_weight is None else bias_weight * bias)


def patch_embedding(module: PatchEmbedding, images: Tensor, channels: int) -> Tensor:
    """The first channels of a patch embedding: (N, T, channels) of (N, C, H, W)."""
    bias = module.patches.bias
    assert bias is not None
    x = F.pad(images, module.padding) if any(module.padding) else images
    x = F.conv2d(x, module.patches.weight[:channels], bias[:channels], module.patches.stride)
    return x.flatten(2).transpose(1, 2) + module.positions[:, :channels]
