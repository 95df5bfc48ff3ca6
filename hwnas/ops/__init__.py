"""The operators of all search spaces: their names, modules, costs and definition hashes.

An `OpSpec` names an operator and gives its channels, input size and stride; `build` turns it into
a module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.cells import CELL_OPERATORS
from hwnas.ops.generators import GENERATOR_OPERATORS, projection_builder
from hwnas.ops.heads import HEAD_OPERATORS
from hwnas.ops.macro import parsed_operator
from hwnas.ops.masked import MASKED_OPERATORS, masked_name
from hwnas.ops.mobile import MOBILE_OPERATORS
from hwnas.ops.parts import ACTIVATIONS, Builder, sequential
from hwnas.ops.recurrent import RECURRENT_OPERATORS, state_inputs
from hwnas.ops.resized import read_operator, resized_builder
from hwnas.ops.sequences import (
    COLUMNS,
    SEQUENCE_OPERATORS,
    TOKENS,
    SequenceAttention,
    category_builder,
)
from hwnas.ops.tokens import PATCH_EMBEDDING, TOKEN_OPERATORS, ScaledDotProductAttention

OperatorKind = Literal["operator", "source", "tokens"]
"""An operator inside a network, one that reads its input, and one that reads whole numbers."""
OperatorModule = tuple[nn.Module, list[tuple[int, ...]], OperatorKind]
"""A module to measure, the shape of each of its inputs without the batch, and its kind."""

OPERATORS: dict[str, Builder] = {
    **CELL_OPERATORS,
    **MOBILE_OPERATORS,
    **TOKEN_OPERATORS,
    **HEAD_OPERATORS,
    **SEQUENCE_OPERATORS,
    **RECURRENT_OPERATORS,
    **MASKED_OPERATORS,
    **GENERATOR_OPERATORS,
}
"""Builders by operator name.

Not listed are the operators whose names are parsed (see `macro`, `resized`, `category_builder` and
`projection_builder`), and `none`, whose output is zero and which is never built.
"""

TOKEN_SOURCES = (TOKENS, masked_name(TOKENS))
"""Operators that read tokens (N, L)."""
SOURCES = frozenset(
    {
        "conv_bn_3x3",
        *(f"conv_bn_3x3_{activation}" for activation in ACTIVATIONS),
        PATCH_EMBEDDING,
        *TOKEN_SOURCES,
        COLUMNS,
    }
)
"""Operators that read the network's input, apart from a `resized_...` prefix."""

TOKEN_READERS = frozenset(TOKEN_OPERATORS) - SOURCES
"""Operators that read token vectors (N, T, C)."""


def build(spec: OpSpec, *, affine: bool = True) -> nn.Module:
    """The module of an operator.

    Args:
        spec: name and sizes of the operator.
        affine: whether its batch norms have a learned scale and shift.

    Raises:
        KeyError: when no operator has this name.
    """
    name = read_operator(spec.name)
    builder = OPERATORS.get(name) or parsed_source(name) or parsed_operator(name)
    return resized_builder(spec.name, builder)(spec, affine)


def parsed_source(name: str) -> Builder | None:
    """The builder of an operator that reads the network's input and whose name is parsed."""
    return category_builder(name) or projection_builder(name)


def reads_input(spec: OpSpec) -> bool:
    """Whether an operator reads the network's input."""
    name = read_operator(spec.name)
    return name in SOURCES or parsed_source(name) is not None


def operator_module(spec: OpSpec) -> OperatorModule:
    """What is measured for an operator: a new module, the shapes of its inputs, and its kind."""
    kind: OperatorKind = "source" if reads_input(spec) else "operator"
    if spec.name in TOKEN_SOURCES:
        kind = "tokens"
    return build(spec), input_shapes(spec), kind


def build_candidate(spec: OpSpec, *, normalise_pools: bool) -> nn.Module:
    """The module of an operator as a candidate in a supernet, with non-affine batch norms.

    Args:
        spec: name and sizes of the operator; the name may be `none`.
        normalise_pools: whether a batch norm follows each pool, as in DARTS during the search.
    """
    if spec.name == "none":
        return nn.Identity()
    operator = build(spec, affine=False)
    if normalise_pools and spec.name.startswith(("max_pool_", "avg_pool_")):
        return sequential(pool=operator, bn=nn.BatchNorm2d(spec.c_out, affine=False))
    return operator


def input_shapes(spec: OpSpec) -> list[tuple[int, ...]]:
    """The shape of each input of an operator, without the batch dimension.

    `add` has two inputs and `concat` several. A shape is (C, H, W) for feature maps, (T, C) for
    token vectors, (L,) for token ids, and (C,) for recurrent states.
    """
    if spec.name in TOKEN_READERS:
        return [(spec.height * spec.width, spec.c_in)]
    if spec.name in TOKEN_SOURCES:
        return [(spec.width,)]
    states = state_inputs(spec.name)
    if states is not None:
        return [(spec.c_in,)] * states
    inputs = {"add": 2, "concat": spec.c_out // max(spec.c_in, 1)}.get(spec.name, 1)
    return [(spec.c_in, spec.height, spec.width)] * inputs


@cache
def params_and_macs(spec: OpSpec) -> tuple[int, int]:
    """The number of parameters of an operator, and its multiply-accumulates for one sample.

    As is usual, multiply-accumulates are counted in convolutions, linear layers, recurrent layers
    and the two matrix products of attention. The module is run on the meta device, so nothing is
    computed.
    """
    if spec.name == "none":
        return 0, 0
    with torch.device("meta"):
        module = build(spec).eval()
        dtype = torch.int64 if spec.name in TOKEN_SOURCES else torch.float32
        inputs = [torch.empty(1, *shape, dtype=dtype) for shape in input_shapes(spec)]
    macs = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += layer.weight[0].numel() * output.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            macs += layer.weight[0].numel() * given[0].numel()
        elif isinstance(layer, nn.Linear):
            macs += layer.in_features * output.numel()
        elif isinstance(layer, ScaledDotProductAttention):
            tokens = given[1].shape[-2]
            macs += tokens * (given[0].numel() + output.numel())
        elif isinstance(layer, SequenceAttention):
            macs += layer.product_macs(output)
        elif isinstance(layer, nn.RNNBase):
            # The input is (L, N, C); every weight matrix is applied at each of the L steps.
            macs += sum(p.numel() for p in layer.parameters() if p.ndim == 2) * len(given[0])

    for layer in module.modules():
        layer.register_forward_hook(count)
    module(*inputs)
    return sum(p.numel() for p in module.parameters()), macs


@cache
def definition_hash(name: str) -> str:
    """A hash of an operator's structure, the `repr` of its module at stride 1 and 2.

    Latency tables store it, so that a measurement of an earlier definition is recognised.
    """
    structures = [repr(build(OpSpec(name, 16, 16, 8, 8, stride))) for stride in (1, 2)]
    return hashlib.sha256("\n".join(structures).encode()).hexdigest()[:16]


def definitions(specs: Iterable[OpSpec]) -> dict[str, str]:
    """The `definition_hash` of each operator that occurs in the specs, sorted by name."""
    return {name: definition_hash(name) for name in sorted({spec.name for spec in specs})}
