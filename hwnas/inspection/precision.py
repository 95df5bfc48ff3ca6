"""The number format of a model, from the nodes and tensors that its outputs depend on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from hwnas.inspection.tensors import subgraphs

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
QUANTISED = ("QLinear", "QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger")
"""Prefixes of the names of quantised operators."""


def precision_of(model: ModelProto) -> str:
    """Decide which parity limits apply to a model.

    Dead nodes and unused tensors do not count. All outputs of a function or subgraph that is used
    count, whether they are read or not.

    Args:
        model: a model whose nodes are in topological order and whose functions are finite.

    Returns:
        `int8` if an output depends on a quantised operator; else `float16` if the outputs depend on
        more stored 16-bit floats than on longer ones; else `float32`.
    """
    walk = _Walk(model)
    walk.graph(model.graph)
    for function in walk.called:
        walk.attributes(function.attribute_proto)
        walk.nodes(function.node, function.output)
    if walk.is_quantised:
        return "int8"
    return "float16" if walk.halves > walk.floats else "float32"


class _Walk:
    """Walks backwards from outputs to everything that they depend on.

    Attributes:
        called: functions found so far, each once; their nodes are still to be walked.
        is_quantised: whether a quantised operator was found.
        floats: number of 32-bit and 64-bit elements in the tensors found.
        halves: number of 16-bit elements in the tensors found.
    """

    def __init__(self, model: ModelProto) -> None:
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self._found: set[tuple[str, str, str]] = set()
        self.called: list[FunctionProto] = []
        self.is_quantised = False
        self.floats = self.halves = 0

    def graph(self, graph: GraphProto) -> set[str]:
        """Walk a graph and return the names that it needs from outside."""
        needed = self.nodes(graph.node, [value.name for value in graph.output])
        stored = [*graph.initializer, *(pair.values for pair in graph.sparse_initializer)]
        self._count(tensor for tensor in stored if tensor.name in needed)
        return needed - {value.name for value in (*stored, *graph.input)}

    def nodes(self, nodes: Sequence[NodeProto], outputs: Iterable[str]) -> set[str]:
        """Walk the nodes that outputs depend on and return the names that no node computes."""
        needed = {*outputs} - {""}
        for node in reversed(nodes):
            if needed.isdisjoint(node.output):
                continue
            self._add(node)
            needed.difference_update(node.output)
            needed.update(node.input, self.attributes(node.attribute))
            needed.discard("")
        return needed

    def attributes(self, attributes: Iterable[AttributeProto]) -> set[str]:
        """Walk tensors and subgraphs and return the names that the subgraphs need from outside."""
        needed: set[str] = set()
        for attribute in attributes:
            self._count([attribute.t, *attribute.tensors])
            self._count(
                pair.values for pair in (attribute.sparse_tensor, *attribute.sparse_tensors)
            )
            for inner in subgraphs([attribute]):
                needed |= self.graph(inner)
        return needed

    def _add(self, node: NodeProto) -> None:
        key = (node.domain, node.op_type, node.overload)
        if key not in self._functions:
            self.is_quantised |= node.op_type.startswith(QUANTISED)
        elif key not in self._found:
            self._found.add(key)
            self.called.append(self._functions[key])

    def _count(self, tensors: Iterable[TensorProto]) -> None:
        for tensor in tensors:
            if tensor.data_type in FLOATS:
                self.floats += math.prod(tensor.dims)
            elif tensor.data_type in HALVES:
                self.halves += math.prod(tensor.dims)
