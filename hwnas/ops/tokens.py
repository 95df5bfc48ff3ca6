"""Operators of vision transformers, which work on tokens (N, T, C), one for each patch of an image.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929), with the mean of
the tokens instead of a class token. In the `OpSpec` of an operator that reads tokens, T is
`height` x `width`, the grid of patches, and C is `c_in`. `patch_embedding` reads images, in patches
of `stride` x `stride` pixels. `attention_h<heads>_d<head channels>` and `mlp_r<ratio>` are the two
halves of an encoder block; the ratio is that of an MLP's hidden channels to its input channels.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, out_size, sequential

HEADS = range(1, 25)
HEAD_CHANNELS = (4, 8, 16, 32, 64)
MLP_RATIOS = tuple(halves / 2 for halves in range(1, 17))
NORM_EPSILON = 1e-6
POSITION_STD = 0.02
"""Standard deviation of the initial position embeddings."""
PATCH_EMBEDDING = "patch_embedding"


def mlp_channels(channels: int, ratio: float) -> int:
    """Hidden channels of an MLP, rounded down as in AutoFormer, and at least one."""
    return max(1, int(channels * ratio))


class PatchEmbedding(nn.Module):
    """A linear projection of each patch, plus a learned vector for each position.

    (N, c_in, H, W) to (N, ceil(H / stride) * ceil(W / stride), c_out). Images whose sides are not
    multiples of the patch size are padded with zeros at the right and the bottom.
    """

    def __init__(self, spec: OpSpec) -> None:
        super().__init__()
        rows, columns = out_size(spec.height, spec.stride), out_size(spec.width, spec.stride)
        self.padding = (0, columns * spec.stride - spec.width, 0, rows * spec.stride - spec.height)
        self.patches = nn.Conv2d(spec.c_in, spec.c_out, spec.stride, spec.stride)
        positions = torch.empty(rows * columns, spec.c_out)
        self.positions = nn.Parameter(nn.init.trunc_normal_(positions, std=POSITION_STD))

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, self.padding) if any(self.padding) else images
        patches: Tensor = self.patches(padded)
        return patches.flatten(2).transpose(1, 2) + self.positions

    def extra_repr(self) -> str:
        return f"positions={tuple(self.positions.shape)}, padding={self.padding}"


class ScaledDotProductAttention(nn.Module):
    """softmax(q k' / sqrt(D)) v, all of them (N, heads, T, D) (Vaswani et al., 2017, eq. 1)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Layer norm and multi-head self-attention with a residual connection."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.query = nn.Linear(channels, heads * head_channels)
        self.key = nn.Linear(channels, heads * head_channels)
        self.value = nn.Linear(channels, heads * head_channels)
        self.product = ScaledDotProductAttention()
        self.projection = nn.Linear(heads * head_channels, channels)

    def branch(self, x: Tensor) -> Tensor:
        """The block without its residual connection."""
        x = self.norm(x)
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        y: Tensor = self.projection(join_heads(self.product(q, k, v)))
        return y

    def split(self, x: Tensor) -> Tensor:
        """(N, T, heads * D) to (N, heads, T, D)."""
        return torch.unflatten(x, -1, (-1, self.head_channels)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def extra_repr(self) -> str:
        return f"head_channels={self.head_channels}"


def join_heads(values: Tensor) -> Tensor:
    """(N, heads, T, D) to (N, T, heads * D)."""
    return values.transpose(1, 2).flatten(2)


class Gelu(nn.GELU):
    """The exact GELU, which is exported as the sequence of operators that ONNX Runtime fuses."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return 0.5 * (x * (1.0 + torch.erf(x / math.sqrt(2.0))))
        return super().forward(x)


class Mlp(nn.Module):
    """Layer norm and two linear layers around a GELU, with a residual connection."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = mlp_channels(channels, ratio)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.expand = nn.Linear(channels, hidden)
        self.act = Gelu()
        self.project = nn.Linear(hidden, channels)

    def branch(self, x: Tensor) -> Tensor:
        """The block without its residual connection."""
        y: Tensor = self.project(self.act(self.expand(self.norm(x))))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class TokenMean(nn.Module):
    """The mean of the tokens, (N, T, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def token_classifier(channels: int, classes: int) -> nn.Sequential:
    """Layer norm, mean of the tokens and a linear layer, (N, T, channels) to (N, classes)."""
    return sequential(
        norm=nn.LayerNorm(channels, eps=NORM_EPSILON),
        mean=TokenMean(),
        fc=nn.Linear(channels, classes),
    )


def _operators() -> dict[str, Builder]:
    """Builders of all operators of vision transformers."""
    operators: dict[str, Builder] = {
        PATCH_EMBEDDING: lambda s, affine: PatchEmbedding(s),
        "token_classifier": lambda s, affine: token_classifier(s.c_in, s.c_out),
    }
    for heads in HEADS:
        for channels in HEAD_CHANNELS:
            operators[f"attention_h{heads}_d{channels}"] = partial(
                _attention, heads=heads, head_channels=channels
            )
    for ratio in MLP_RATIOS:
        operators[f"mlp_r{ratio:g}"] = partial(_mlp, ratio=ratio)
    return operators


def _attention(spec: OpSpec, affine: bool, *, heads: int, head_channels: int) -> Attention:
    return Attention(spec.c_in, heads, head_channels)


def _mlp(spec: OpSpec, affine: bool, *, ratio: float) -> Mlp:
    return Mlp(spec.c_in, ratio)


TOKEN_OPERATORS = _operators()
