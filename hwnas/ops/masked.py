"""Operators of sequences whose end may be padding, which has no effect on anything else.

A column of zeros is padding. `masked_token_embedding` makes the columns of token 0 zero, and every
`masked_` operator keeps them so: what it computes for the other columns is what it would compute
for a shorter sequence without padding, up to the statistics of batch norms during training. So no
mask has to be carried beside the feature maps, and an exported graph honours the padding of its
input.
"""

from __future__ import annotations

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
EXCLUDED = -1e4
"""Score of a padded position; its exponential is 0, and it is finite in float16."""


def is_filled(x: Tensor) -> Tensor:
    """Whether a column of (N, C, 1, L) is no padding, (N, 1, 1, L) bool."""
    return x.abs().amax(dim=1, keepdim=True) > 0


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
        weights = scores.masked_fill(~is_filled(x), EXCLUDED).softmax(dim=3)
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
    """K scores for each column, (N, C, 1, L) to (N, K, 1, L); `EXCLUDED` for padding."""

    def __init__(self, c_in: int, outputs: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(c_in, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(x).masked_fill(~is_filled(x), EXCLUDED)
        return scores


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
