"""Operators as modules, by their published names; one `OpSpec` builds one module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops.cells import CELL_OPERATORS
from hwnas.ops.heads import HEAD_OPERATORS
from hwnas.ops.macro import parsed_operator
from hwnas.ops.mobile import MOBILE_OPERATORS
from hwnas.ops.parts import ACTIVATIONS, Builder, sequential
from hwnas.ops.recurrent import RECURRENT_OPERATORS, state_inputs
from hwnas.ops.resized import read_operator, resized_builder
from hwnas.ops.sequences import COLUMNS, SEQUENCE_OPERATORS, TOKENS, SequenceAttention
from hwnas.ops.tokens import PATCH_EMBEDDING, TOKEN_OPERATORS, ScaledDotProductAttention

OPERATORS: dict[str, Builder] = {
    **CELL_OPERATORS,
    **MOBILE_OPERATORS,
    **TOKEN_OPERATORS,
    **HEAD_OPERATORS,
    **SEQUENCE_OPERATORS,
    **RECURRENT_OPERATORS,
}
"""Every operator but those whose names are parsed (`macro`, `resized`) and `none`, which is never
built: it is zero."""

SOURCES = frozenset(
    {
        "conv_bn_3x3",
        *(f"conv_bn_3x3_{activation}" for activation in ACTIVATIONS),
        PATCH_EMBEDDING,
        TOKENS,
        COLUMNS,
    }
)
"""Operators that read the network's input, at whatever size."""

TOKEN_READERS = frozenset(TOKEN_OPERATORS) - SOURCES
"""Operators that read tokens."""


def build(spec: OpSpec, *, affine: bool = True) -> nn.Module:
    """The operator of a finished network; `affine` says whether batch norms scale and shift.

    Raises:
        KeyError: for a name that is no operator's.
    """
    name = read_operator(spec.name)
    builder = OPERATORS.get(name) or parsed_operator(name)
    return resized_builder(spec.name, builder)(spec, affine)


def reads_input(spec: OpSpec) -> bool:
    """Whether an operator reads the network's input."""
    return read_operator(spec.name) in SOURCES


def build_candidate(spec: OpSpec, *, normalise_pools: bool) -> nn.Module:
    """The operator as a candidate in a supernet: batch norms without scale and shift.

    Args:
        spec: what to build; the name may be `none`.
        normalise_pools: follow pools by a batch norm, as DARTS does in its search only.
    """
    if spec.name == "none":
        return nn.Identity()
    operator = build(spec, affine=False)
    if normalise_pools and spec.name in ("max_pool_3x3", "avg_pool_3x3"):
        return sequential(pool=operator, bn=nn.BatchNorm2d(spec.c_out, affine=False))
    return operator


def input_shapes(spec: OpSpec) -> list[tuple[int, ...]]:
    """Shape of each input of an operator: two for `add`, several for `concat`.

    It is (C, H, W) without the batch, (T, C) for operators that read vectors of tokens, (L,) for
    one that reads tokens themselves, and (C,) for operators that read states.
    """
    if spec.name in TOKEN_READERS:
        return [(spec.height * spec.width, spec.c_in)]
    if spec.name == TOKENS:
        return [(spec.width,)]
    states = state_inputs(spec.name)
    if states is not None:
        return [(spec.c_in,)] * states
    inputs = {"add": 2, "concat": spec.c_out // max(spec.c_in, 1)}.get(spec.name, 1)
    return [(spec.c_in, spec.height, spec.width)] * inputs


@cache
def params_and_macs(spec: OpSpec) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one sample, of an operator.

    Multiply-accumulates are those of convolutions, linear and recurrent layers and the two products
    of an attention, the usual convention of the field; they are counted by running the module on
    shapes alone.
    """
    if spec.name == "none":
        return 0, 0
    with torch.device("meta"):
        module = build(spec).eval()
        dtype = torch.int64 if spec.name == TOKENS else torch.float32
        inputs = [torch.empty(1, *shape, dtype=dtype) for shape in input_shapes(spec)]
    macs = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += layer.weight[0].numel() * output.numel()
        elif isinstance(layer, nn.Linear):
            macs += layer.in_features * output.numel()
        elif isinstance(layer, ScaledDotProductAttention):
            tokens = given[1].shape[-2]
            macs += tokens * (given[0].numel() + output.numel())
        elif isinstance(layer, SequenceAttention):
            macs += layer.product_macs(output)
        elif isinstance(layer, nn.RNNBase):
            # (L, N, C): all matrices at each step.
            macs += sum(p.numel() for p in layer.parameters() if p.ndim == 2) * len(given[0])

    for layer in module.modules():
        layer.register_forward_hook(count)
    module(*inputs)
    return sum(p.numel() for p in module.parameters()), macs


@cache
def definition_hash(name: str) -> str:
    """Hash of an operator's structure: a row measured on another definition is told apart."""
    structures = [repr(build(OpSpec(name, 16, 16, 8, 8, stride))) for stride in (1, 2)]
    return hashlib.sha256("\n".join(structures).encode()).hexdigest()[:16]


def definitions(specs: Iterable[OpSpec]) -> dict[str, str]:
    """`definition_hash` of each operator that the specs name, sorted by name."""
    return {name: definition_hash(name) for name in sorted({spec.name for spec in specs})}
