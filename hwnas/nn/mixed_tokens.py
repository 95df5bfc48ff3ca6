"""Mixed attention and MLP of vision transformers, whose options share the largest one's weights.

Weight entanglement: Chen et al., "AutoFormer", ICCV 2021 (arXiv 2107.00651). An option with fewer
heads, hidden channels or embedding channels uses the first ones of the largest option, so that a
supernet has no more weights than its largest network.
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
    """The weighted sum of the options of one half of an encoder block, in a single pass.

    The branch of an option ends in a linear layer, so its output is a bias plus the sum of the
    contributions of its units, which are heads or hidden channels. Since options share their units,
    their weighted sum equals a single branch in which each unit is multiplied by the sum of the
    weights of the options that have it.

    Attributes:
        recompute: unless it is "nothing", the branch is recomputed in the backward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recompute = "nothing"

    @abstractmethod
    def units(self, channels: int) -> Sequence[int]:
        """The number of units of each option for tokens with this many channels; 0 for a skip."""

    @abstractmethod
    def branch(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted branch, without the residual connection.

        Args:
            x: (N, T, C), where C is at most the largest number of embedding channels.
            weights: (n,), the weights of the first n units. The first is also that of the bias,
                since an option has the bias if it has any unit.
        """

    def forward(self, x: Tensor, mixture: Mixture, choice: int) -> Tensor:
        """The weighted sum of the options, (N, T, C) to (N, T, C).

        Args:
            x: input.
            mixture: of the whole space.
            choice: the row of this choice.
        """
        units = self.units(x.shape[-1])
        active = mixture.active_options(choice)
        options = list(range(len(units)) if active is None else active)
        # Indices and counts that are lists would be copied to a GPU at every call.
        weights = torch.stack([mixture.weights[choice, k] for k in options]).to(x.dtype)
        largest = max(units[k] for k in options)
        out = weights.sum() * x
        if largest == 0:
            return out
        of_units = [
            F.pad(weight.expand(units[k]), (0, largest - units[k]))
            for weight, k in zip(weights, options, strict=True)
        ]
        unit_weights = torch.stack(of_units).sum(dim=0)
        if self.recompute == "nothing" or not torch.is_grad_enabled():
            return out + self.branch(x, unit_weights)
        branch: Tensor = checkpoint(
            self.branch, x, unit_weights, use_reentrant=False, preserve_rng_state=False
        )
        return out + branch


class MixedAttention(MixedTokens):
    """A choice between attentions with different numbers of heads.

    Args:
        channels: the largest number of embedding channels.
        heads: the number of heads of each option; 0 for a skip.
        head_channels: channels of each head.
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
    """A choice between MLPs with different ratios of hidden to embedding channels.

    Args:
        channels: the largest number of embedding channels.
        ratios: the ratio of each option; 0 for a skip.
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
    """Apply the first channels of a layer norm, as many as the input has."""
    channels = x.shape[-1]
    return F.layer_norm(x, (channels,), norm.weight[:channels], norm.bias[:channels], norm.eps)


def linear(layer: nn.Linear, x: Tensor, outputs: int, bias_weight: Tensor | None = None) -> Tensor:
    """Apply the part of a linear layer that belongs to its first inputs and outputs.

    Args:
        layer: the whole layer.
        x: (..., inputs), at most the layer's.
        outputs: how many of the layer's outputs to compute.
        bias_weight: scalar that the bias is multiplied by; None for 1.
    """
    bias = layer.bias[:outputs]
    weight = layer.weight[:outputs, : x.shape[-1]]
    return F.linear(x, weight, bias if bias_weight is None else bias_weight * bias)


def patch_embedding(module: PatchEmbedding, images: Tensor, channels: int) -> Tensor:
    """The first channels of a patch embedding, (N, C, H, W) to (N, T, channels)."""
    bias = module.patches.bias
    assert bias is not None
    x = F.pad(images, module.padding) if any(module.padding) else images
    x = F.conv2d(x, module.patches.weight[:channels], bias[:channels], module.patches.stride)
    return x.flatten(2).transpose(1, 2) + module.positions[:, :channels]
