"""The layers of a network as operators of a latency table.

A layer is what has weights or multiplies matrices, with the work on each of its outputs that a
runtime fuses into it: norms, activations and additions. Work that changes shapes, such as pooling
and concatenation, is an operator of its own.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hwnas.errors import InputError, first_line
from hwnas.nn.mixed_branches import is_sum
from hwnas.spaces.traced.counting import COUNTED
from hwnas.spaces.traced.grouping import Work, collected
from hwnas.spaces.traced.operators import is_free
from hwnas.spaces.traced.walk import Runner, Walk

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Identity,
    nn.Dropout,
)
ACTIVATING = (torch.relu, F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish)
KEEP = 0
"""The option of a block's choice that keeps the block."""


@dataclass
class LayerWalk(Walk):
    """A walk through a network without choices in its code, layer by layer.

    Attributes:
        blocks: the row of the choice whether a block stays, by the path of the block.
        layer_of: the name of the last node of each node's layer, by the node's name. It is found
            in the walk, unless it was found in a walk through a wider network, since equal shapes
            of values may be a coincidence of one width.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    layer_of: Mapping[str, str] | None = None

    def run(self) -> None:
        graph = traced(self.model)
        runner = Runner(self, self.model, graph, (), "the model")
        output = runner.run_all(self.inputs, {})
        assert isinstance(output, Tensor)
        self.output_shape = tuple(output.shape[1:])
        work = Work.of(graph, runner.values, lambda node: False)
        block_of = {node: self._block(node) for node in graph.nodes}
        if self.layer_of is None:
            found = _layers(self.model, work, block_of)
            self.layer_of = {node.name: last.name for node, last in found.items()}
        named = {node.name: node for node in graph.nodes}
        roots = {named[name]: named[last] for name, last in self.layer_of.items()}
        for group in collected(self.model, work, roots, "the model"):
            if not is_free(group.module):
                given = tuple(runner.values[node] for node in group.inputs)
                block = block_of[group.result]
                when = () if block is None else ((self.blocks[block], (KEEP,)),)
                value = runner.values[group.result]
                self._add(group.module, given, {}, value, when, f"the model: {group.result.name}")

    def _block(self, node: fx.Node) -> str | None:
        """The block that a node is in, if it is in one that may go."""
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            if path in self.blocks:
                return str(path)
        return None


class _LayerTracer(fx.Tracer):
    """PyTorch's own modules are single nodes, and so is what cannot be traced."""

    def __init__(self, opaque: set[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # tracing runs the user's code, which may raise anything
            self.failed = self.failed or self.path_of_module(m)
            raise


def traced(model: nn.Module) -> fx.Graph:
    """The graph of a model, in which modules that cannot be traced are single nodes.

    Raises:
        InputError: when the `forward` of the model itself cannot be traced; names its line.
    """
    opaque: set[str] = set()
    while True:
        tracer = _LayerTracer(opaque)
        try:
            return tracer.trace(model)
        except Exception as error:
            if tracer.failed is None or tracer.failed in opaque:
                raise InputError(
                    "the model cannot be traced by torch.fx",
                    where=_line_of(error),
                    expected="a forward whose control flow does not depend on values of tensors",
                    actual=first_line(error),
                    mend="move what depends on values into a module of its own",
                ) from error
            opaque.add(tracer.failed)


def _line_of(error: Exception) -> str:
    """The last line of the user's code that an error passed through, as file and number."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and "/hwnas/" not in f.filename]
    frame = (own or list(frames))[-1]
    return f"{frame.filename}:{frame.lineno}"


def _layers(
    model: nn.Module, work: Work, block_of: Mapping[fx.Node, str | None]
) -> dict[fx.Node, fx.Node]:
    """The last node of the layer that each node belongs to.

    A node joins the layer whose result it alone reads, if it does not change the shape. Of several
    such layers it joins the one that is computed last.
    """
    layer_of: dict[fx.Node, int] = {}
    last: list[fx.Node] = []
    for node in filter(work.is_work, work.graph.nodes):
        joined = [
            layer
            for layer in sorted({layer_of[n] for n in work.producers(node) if n in layer_of})
            if last[layer] in work.producers(node)
            and work.used_users(last[layer]) == {node}
            and block_of[last[layer]] == block_of[node]
            and _same_shape(work.values[last[layer]], work.values[node])
        ]
        if joined and not _is_heavy(model, node):
            layer_of[node] = joined[-1]
            last[joined[-1]] = node
        else:
            layer_of[node] = len(last)
            last.append(node)
    return {node: last[layer] for node, layer in layer_of.items()}


def _same_shape(one: Any, other: Any) -> bool:
    """Whether a value may be replaced by another in a layer; what is no tensor always may."""
    if not isinstance(one, Tensor):
        return True
    return isinstance(other, Tensor) and one.shape == other.shape


def _is_heavy(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node has weights other than one for each channel, or multiplies matrices."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return any(p.dim() > 1 for p in module.parameters())
    if node.op == "call_method":
        return getattr(Tensor, str(node.target), None) in COUNTED
    return node.target in COUNTED


def residual_blocks(model: nn.Module) -> Iterator[str]:
    """The paths of modules that add something to their input, and so can be left out.

    Their result is the input, plus what they compute of it, once or several times, each sum
    possibly followed by an activation. Of blocks inside each other the innermost are found.
    """
    found: list[str] = []
    for path, module in reversed(list(model.named_modules())):
        own = not type(module).__module__.startswith("torch.")
        if path and own and not any(one.startswith(f"{path}.") for one in found):
            if _adds_to_input(module):
                found.append(path)
    yield from reversed(found)


def remove_block(model: nn.Module, path: str) -> None:
    """Replace a block by the identity, in place."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = nn.Identity()


def removable_blocks(model: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """The residual blocks without which the model still runs and returns the same shape."""
    found = []
    with torch.no_grad():
        shape = model(*inputs).shape
        for path in residual_blocks(model):
            smaller = copy.deepcopy(model)
            remove_block(smaller, path)
            try:
                if smaller(*inputs).shape == shape:
                    found.append(path)
            except Exception:  # the user's code may raise anything
                continue
    return found


def _adds_to_input(module: nn.Module) -> bool:
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # tracing runs the user's code, which may raise anything
        return False
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    (result,) = output.args
    if len(inputs) != 1 or not isinstance(result, fx.Node) or result is inputs[0]:
        return False
    return _leads_to(module, result, inputs[0])


def _leads_to(module: nn.Module, node: fx.Node, source: fx.Node) -> bool:
    """Whether a node is the source but for additions and activations."""
    if node is source:
        return True
    if is_sum(node):
        return any(_leads_to(module, n, source) for n in node.args if isinstance(n, fx.Node))
    if not _is_activation(module, node):
        return False
    (read,) = node.all_input_nodes
    return _leads_to(module, read, source)


def _is_activation(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), ACTIVATIONS)
    return node.target in ACTIVATING or (node.op == "call_method" and node.target == "relu")
