"""Operators of sequences, which are feature maps (N, C, 1, L) with one column for each time step.

`token_embedding` and `column_embedding` read a network's input: token ids, or maps whose columns
become the steps. `category_embedding_<columns>x<codes>` reads rows of a table whose last columns
are codes of categories. All other operators keep the shape and have a residual connection around a
branch that ends in a batch norm: `lstm`, `gru`, `conv1d_<kernel>`, `attention1d_h<heads>` and
`feedforward1d_e<expansion>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.parts import Builder, sequential

TOKENS, COLUMNS, CATEGORIES = "token_embedding", "column_embedding", "category_embedding"
MOST_CODES = 2048
"""Largest number of codes of a column; whole numbers up to it are exact in float16."""
_CATEGORIES = re.compile(rf"{CATEGORIES}_([1-9]\d{{0,4}})x([1-9]\d{{0,3}})")


def stem_operator(
    vocabulary: int | None,
    input_shape: tuple[int, ...],
    channels: int,
    categories: Sequence[int] = (),
) -> OpSpec:
    """The operator that turns a network's input into a sequence.

    Args:
        vocabulary: number of different tokens; None for numeric inputs.
        input_shape: (L,) for tokens, (C, H, L) otherwise.
        channels: of the sequence.
        categories: number of codes of each of the last columns of a table.
    """
    if categories:
        name = f"{CATEGORIES}_{len(categories)}x{max(categories)}"
        return OpSpec(name, input_shape[0], channels, 1, 1)
    if vocabulary is not None:
        return OpSpec(TOKENS, vocabulary, channels, 1, *input_shape)
    c_in, height, steps = input_shape
    return OpSpec(COLUMNS, c_in, channels, height, steps)


class TokenEmbedding(nn.Module):
    """The sum of a learned vector for each token and one for each position."""

    def __init__(self, spec: OpSpec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(spec.c_in, spec.c_out)
        self.places = nn.Parameter(0.02 * torch.randn(1, spec.c_out, 1, spec.width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) int64 to (N, C, 1, L)."""
        y: Tensor = self.embedding(x).transpose(1, 2).unsqueeze(2) + self.places
        return y


class ColumnEmbedding(nn.Module):
    """A linear projection of each column, plus a learned vector for each position."""

    def __init__(self, spec: OpSpec, affine: bool) -> None:
        super().__init__()
        self.project = sequential(
            conv=nn.Conv2d(spec.c_in * spec.height, spec.c_out, 1, bias=False),
            bn=nn.BatchNorm2d(spec.c_out, affine=affine),
        )
        self.places = nn.Parameter(0.02 * torch.randn(1, spec.c_out, 1, spec.width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, L) to (N, C, 1, L)."""
        y: Tensor = self.project(x.flatten(1, 2).unsqueeze(2)) + self.places
        return y


class CategoryEmbedding(nn.Module):
    """The sum of a linear projection of numbers and of a learned vector for each category.

    Guo & Berkhahn, "Entity Embeddings of Categorical Variables", arXiv 1604.06737, with a sum in
    place of the concatenation, which is what a linear layer behind it computes too. All columns
    have equally many rows in one table of vectors.
    """

    def __init__(self, spec: OpSpec, affine: bool, *, columns: int, codes: int) -> None:
        super().__init__()
        self.columns, self.codes = columns, codes
        numbers = spec.c_in - columns
        self.embedding = nn.Embedding(columns * codes, spec.c_out)
        self.project = nn.Conv2d(numbers, spec.c_out, 1, bias=False) if numbers > 0 else None
        self.bn = nn.BatchNorm2d(spec.c_out, affine=affine)
        first = torch.arange(columns) * codes
        self.first: Tensor
        self.register_buffer("first", first, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, 1, 1), of which the last `columns` are codes, to (N, C, 1, 1)."""
        # Limited as whole numbers, since NaN becomes a large one.
        codes = x[:, -self.columns :, 0, 0].round().long().clamp(0, self.codes - 1)
        y = self.embedding(codes + self.first).sum(dim=1)[:, :, None, None]
        if self.project is not None:
            y = y + self.project(x[:, : -self.columns])
        normalised: Tensor = self.bn(y)
        return normalised

    def extra_repr(self) -> str:
        return f"columns={self.columns}, codes={self.codes}"


def category_builder(name: str) -> Builder | None:
    """The builder of `category_embedding_<columns>x<codes>`; None for any other name."""
    found = _CATEGORIES.fullmatch(name)
    if found is None:
        return None
    columns, codes = map(int, found.groups())
    return partial(CategoryEmbedding, columns=columns, codes=codes)


class SequenceBlock(nn.Module):
    """A residual connection around a branch that keeps the shape (N, C, 1, L)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


class Recurrence(nn.Module):
    """The outputs of a recurrent layer at all steps; the initial state is zero."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], channels: int) -> None:
        super().__init__()
        self.layer: nn.RNNBase = kind(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.squeeze(2).permute(2, 0, 1))[0]
        return y.permute(1, 2, 0).unsqueeze(2)


class SequenceAttention(nn.Module):
    """Multi-head self-attention over the steps.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (arXiv 1706.03762), section 3.2.2.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Each of q, k and v is (N, heads, C / heads, L).
        q, k, v = self.read(x).squeeze(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = (q.transpose(2, 3) @ k / q.shape[2] ** 0.5).softmax(dim=3)
        y = v @ weights.transpose(2, 3)
        projected: Tensor = self.project(y.flatten(1, 2).unsqueeze(2))
        return projected

    @staticmethod
    def product_macs(output: Tensor) -> int:
        """Multiply-accumulates of the two attention products, given the module's output."""
        return 2 * output.shape[-1] * output.numel()

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


def recurrent(spec: OpSpec, affine: bool, *, kind: type[nn.LSTM | nn.GRU]) -> SequenceBlock:
    """Residual LSTM (Hochreiter & Schmidhuber, 1997) or GRU (Cho et al., arXiv 1406.1078)."""
    layer, bn = Recurrence(kind, spec.c_out), nn.BatchNorm2d(spec.c_out, affine=affine)
    return SequenceBlock(sequential(recurrence=layer, bn=bn))


def convolution(spec: OpSpec, affine: bool, *, kernel: int) -> SequenceBlock:
    """Residual ReLU, convolution along the steps, batch norm."""
    conv = nn.Conv2d(spec.c_in, spec.c_out, (1, kernel), padding=(0, kernel // 2), bias=False)
    bn = nn.BatchNorm2d(spec.c_out, affine=affine)
    return SequenceBlock(sequential(relu=nn.ReLU(), conv=conv, bn=bn))


def attention(spec: OpSpec, affine: bool, *, heads: int) -> SequenceBlock:
    """Residual self-attention, batch norm."""
    bn = nn.BatchNorm2d(spec.c_out, affine=affine)
    return SequenceBlock(sequential(attention=SequenceAttention(spec.c_out, heads), bn=bn))


def feedforward(spec: OpSpec, affine: bool, *, expansion: int) -> SequenceBlock:
    """Residual position-wise feed-forward block (Vaswani et al., section 3.3)."""
    hidden = expansion * spec.c_in
    return SequenceBlock(
        sequential(
            expand=nn.Conv2d(spec.c_in, hidden, 1, bias=False),
            bn1=nn.BatchNorm2d(hidden, affine=affine),
            relu=nn.ReLU(),
            project=nn.Conv2d(hidden, spec.c_out, 1, bias=False),
            bn2=nn.BatchNorm2d(spec.c_out, affine=affine),
        )
    )


HEADS, KERNELS, EXPANSIONS = (2, 4), (3, 5, 7), (1, 2, 4)
SEQUENCE_BLOCKS: dict[str, Builder] = {
    "lstm": partial(recurrent, kind=nn.LSTM),
    "gru": partial(recurrent, kind=nn.GRU),
    **{f"conv1d_{k}": partial(convolution, kernel=k) for k in KERNELS},
    **{f"attention1d_h{h}": partial(attention, heads=h) for h in HEADS},
    **{f"feedforward1d_e{e}": partial(feedforward, expansion=e) for e in EXPANSIONS},
}
SEQUENCE_OPERATORS: dict[str, Builder] = {
    TOKENS: lambda s, affine: TokenEmbedding(s),
    COLUMNS: lambda s, affine: ColumnEmbedding(s, affine),
    **SEQUENCE_BLOCKS,
}
