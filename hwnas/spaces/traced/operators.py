"""Modules of a user's model as operators of a latency table: their names, shapes and costs."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from hwnas.latency_tables.table import OpSpec
from hwnas.ops import OperatorKind, OperatorModule
from hwnas.spaces.traced.counting import count
from hwnas.spaces.traced.described import DescribedOperator

FREE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Modules that do nothing in a deployed network."""
SIGNAL_LAYERS = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
MOST_EMBEDDED = 4096
"""More values than this on the last axis are times of a signal, not channels of a token."""
HASH_LENGTH = 12
MOST_NAMES = 3
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Operator:
    """A module of the model at the shapes it runs at.

    Attributes:
        spec: its key in a latency table. The name ends in a hash of the module's structure and of
            the shapes, so that equal modules at equal shapes have the same key in every process.
        module: the module itself, not a copy.
        shapes: of its inputs, without the batch dimension.
        kind: how it is measured.
        reads_floats: which inputs are floating-point numbers.
        params: number of parameters.
        macs: multiply-accumulates for one sample.
    """

    spec: OpSpec
    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    kind: OperatorKind
    reads_floats: tuple[bool, ...]
    params: int
    macs: int

    def measured(self) -> OperatorModule:
        """What is measured: a new module, the shapes of its inputs, and its kind."""
        module = copy.deepcopy(self.module)
        if self.kind == "tokens" and any(self.reads_floats):
            return _FromTokens(module, self.reads_floats), list(self.shapes), self.kind
        if self.kind != "operator" or not _on_signals(self.module, self.shapes):
            return module, list(self.shapes), self.kind
        maps = [(s[0], 1, s[1]) if len(s) == 2 else s for s in self.shapes]
        return _OnMaps(module, [len(s) for s in self.shapes]), maps, self.kind

    def describe(self) -> DescribedOperator:
        """The part of it that can be kept without the module."""
        return DescribedOperator(**vars(self.spec), params=self.params, macs=self.macs)


class _FromTokens(nn.Module):
    """A module that reads tokens, and other inputs beside them, which are given as tokens too."""

    def __init__(self, module: nn.Module, reads_floats: Sequence[bool]) -> None:
        super().__init__()
        self.module, self.reads_floats = module, tuple(reads_floats)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Run the module."""
        given = zip(tokens, self.reads_floats, strict=True)
        outputs: Tensor = self.module(*(x.float() if is_float else x for x, is_float in given))
        return outputs


class _OnMaps(nn.Module):
    """A module that reads signals (N, C, L), which are given to it as maps (N, C, 1, L).

    The context of a measurement mixes the channels of maps, and the last axis of anything else.
    """

    def __init__(self, module: nn.Module, ranks: Sequence[int]) -> None:
        super().__init__()
        self.module, self.ranks = module, tuple(ranks)

    def forward(self, *maps: Tensor) -> Tensor:
        """Run the module on the signals."""
        given = zip(maps, self.ranks, strict=True)
        outputs: Tensor = self.module(*(x.flatten(2) if rank == 2 else x for x, rank in given))
        return outputs


def _on_signals(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a module reads signals (C, L), as opposed to embedded tokens (T, C)."""
    if any(isinstance(layer, SIGNAL_LAYERS) for layer in module.modules()):
        return True
    return any(len(shape) == 2 and shape[1] > MOST_EMBEDDED for shape in shapes)


def operator_of(
    module: nn.Module, inputs: Sequence[Tensor], output: Tensor, *, reads_input: bool
) -> Operator:
    """Describe a module that was run.

    Args:
        module: maps tensors to one tensor.
        inputs: its inputs, (N, ...) each.
        output: its output, (N, ...).
        reads_input: whether one of the inputs is the network's first.
    """
    kind: OperatorKind = "source" if reads_input else "operator"
    if any(not x.is_floating_point() for x in inputs):
        kind = "tokens"
    shapes = tuple(tuple(x.shape[1:]) for x in inputs)
    text = "\n".join([structure(module), str(shapes), str([str(x.dtype) for x in inputs]), kind])
    digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
    channels, height, width = _map_sizes(shapes[0])
    if kind == "tokens":
        # What is measured reads the same tokens from all inputs.
        channels = min(int(x.max()) + 1 for x in inputs if not x.is_floating_point())
    out_channels, out_height, _ = _map_sizes(tuple(output.shape[1:]))
    spec = OpSpec(
        f"{label(module)}-{digest}",
        channels,
        out_channels,
        height,
        width,
        max(1, height // out_height),
    )
    reads_floats = tuple(x.is_floating_point() for x in inputs)
    return Operator(spec, module, shapes, kind, reads_floats, *count(module, inputs))


def _map_sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of a feature map, of tokens (T, C), or of numbers (C,)."""
    if len(shape) >= 3:
        return shape[0], shape[1], math.prod(shape[2:])
    if len(shape) == 2:
        return shape[1], 1, shape[0]
    return math.prod(shape), 1, 1


def label(module: nn.Module) -> str:
    """A short name of a module: its class, or the classes of what it consists of."""
    names = [type(module).__name__]
    if isinstance(module, fx.GraphModule):
        names = [_called(module, node) for node in module.graph.nodes if node.op.startswith("call")]
    elif type(module) is nn.Sequential:
        names = [type(child).__name__ for child in module]
    more = f"+{len(names) - MOST_NAMES}" if len(names) > MOST_NAMES else ""
    return "+".join(names[:MOST_NAMES])[:80] + more


def _called(module: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return node.target if isinstance(node.target, str) else node.target.__name__


def structure(module: nn.Module) -> str:
    """Everything about a module that decides what it computes, apart from its weights, as text.

    These are the classes and plain attributes of its modules, the shapes of their tensors, and the
    graph of a module that was put together by tracing.
    """
    lines: list[str] = []
    for path, child in module.named_modules():
        lines.append(f"{path}: {type(child).__module__}.{type(child).__qualname__}")
        if isinstance(child, fx.GraphModule):
            lines.append(child.code)
        else:
            lines += [
                f"  {name} = {_plain(value)}"
                for name, value in sorted(vars(child).items())
                if not name.startswith("_") and name != "training"
            ]
        for kind in (child._parameters, child._buffers):
            lines += [f"  {name}: {tuple(t.shape)}" for name, t in kind.items() if t is not None]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A value as text that is the same in every process."""
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}"
    return _ADDRESS.sub("", repr(value))


def is_free(module: nn.Module) -> bool:
    """Whether a module does nothing in a deployed network."""
    if type(module) is nn.Sequential:
        return all(map(is_free, module))
    return isinstance(module, FREE)
