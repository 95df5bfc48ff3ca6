"""Operators of sequences whose end may be padding, which has no effect on anything else.

A column of zeros is padding. `masked_token_embedding` makes the columns of token 0 zero, and every
`masked_` operator keeps them so: what it computes for the other columns is what it would compute
for a shorter sequence without padding, up to the statistics of batch norms during training. So no
mask has to be carried beside the feature maps, and an exported graph honours the padding of its
input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, sequential
from hwnas.ops.sequences import (
    SEQUENCE_BLOCKS,
    TOKENS,
    SequenceAttention,
    SequenceBlock,
    TokenEmbedding,
)

MASKED = "masked_"
"""What the names of these operators begin with."""
PADDING_TOKEN = 0
SMALLEST = 1e-4
"""What is divided by for texts of padding alone; it is a normal number in float16."""
BELOW = 8.0
"""How far the scores of padded positions are below the lowest one: enough to have no part in a
softmax, and little beside the range of the scores, which int8 divides into equal steps."""


def is_filled(x: Tensor) -> Tensor:
    """Whether a column of (N, C, 1, L) is no padding, (N, 1, 1, L) bool."""
    return x.abs().amax(dim=1, keepdim=True) > 0


def below_others(scores: Tensor, filled: Tensor) -> Tensor:
    """Scores (N, K, M, L) of which those of padding are `BELOW` the lowest one.

    Args:
        scores: of L positions.
        filled: whether a position is no padding, (N, 1, 1, L) bool.
    """
    return torch.where(filled, scores, scores.amin(dim=3, keepdim=True) - BELOW)


class MaskedTokenEmbedding(TokenEmbedding):
    """The embedding of tokens, which is zero for the padding token."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) int64 to (N, C, 1, L)."""
        is_token = (x != PADDING_TOKEN)[:, None, None]
        return super().forward(x) * is_token


class MaskedAttention(SequenceAttention):
    """Self-attention that does not look at padding."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.read(x).squeeze(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        scores = q.transpose(2, 3) @ k / q.shape[2] ** 0.5
        # The same as scores of minus infinity, without large numbers that int8 could not hold.
        weights = below_others(scores, is_filled(x)).softmax(dim=3) * is_filled(x)
        weights = weights / weights.sum(dim=3, keepdim=True).clamp(min=SMALLEST)
        y = v @ weights.transpose(2, 3)
        projected: Tensor = self.project(y.flatten(1, 2).unsqueeze(2))
        return projected


class MaskedBlock(nn.Module):
    """A block whose output is zero where its input is padding."""

    def __init__(self, block: SequenceBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x) * is_filled(x)
        return y


class MaskedMean(nn.Module):
    """The mean of the columns that are no padding, (N, C, 1, L) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        count = is_filled(x).sum(dim=3).clamp(min=1)
        return (x.sum(dim=3) / count).flatten(1)


class PositionScores(nn.Module):
    """K scores for each column, (N, C, 1, L) to (N, K, 1, L), the lowest ones for padding."""

    def __init__(self, c_in: int, outputs: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(c_in, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return below_others(self.scores(x), is_filled(x))


def masked_name(name: str) -> str:
    """The operator that does the same with padding left out."""
    return MASKED + name


def _masked(builder: Builder) -> Builder:
    """The builder of a block in its masked form."""

    def build(spec: OpSpec, affine: bool) -> MaskedBlock:
        block = builder(spec, affine)
        assert isinstance(block, SequenceBlock)
        for name, child in block.branch.named_children():
            if isinstance(child, SequenceAttention):
                setattr(block.branch, name, MaskedAttention(spec.c_out, child.heads))
        return MaskedBlock(block)

    return build


MASKED_OPERATORS: dict[str, Builder] = {
    masked_name(TOKENS): lambda s, affine: MaskedTokenEmbedding(s),
    masked_name("classifier"): lambda s, affine: sequential(
        pool=MaskedMean(), fc=nn.Linear(s.c_in, s.c_out)
    ),
    masked_name("positions"): lambda s, affine: PositionScores(s.c_in, s.c_out),
    **{masked_name(name): _masked(builder) for name, builder in SEQUENCE_BLOCKS.items()},
}
