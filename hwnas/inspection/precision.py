"""The number format of a model, from what its outputs are computed with.

What counts is the arithmetic on which an output depends: a model whose weights are stored in
float32 computes in float16 if a Cast in front of its operators says so, and weights of 4 bits are
quantised whatever the operator that reads them is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from hwnas.inspection.tensors import BITS, subgraphs

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
TINY_FLOATS = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.FLOAT8E8M0,
    TensorProto.FLOAT4E2M1,
)
SMALL = tuple(kind for kind, bits in BITS.items() if bits <= 8 and kind != TensorProto.BOOL)
"""Numbers of at most 8 bits."""
QUANTISED = (
    "QLinear",
    "QuantizeLinear",
    "DequantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantize",
    "MatMulNBits",
    "MatMulBnb4",
    "GatherBlockQuantized",
    "QAttention",
    "QGemm",
    "QMoE",
    "QEmbed",
    "QOrdered",
)
"""Prefixes of the names of quantised operators, those of ONNX Runtime's own domain included."""
MOVES = frozenset(
    "CastLike Cast CenterCropPad Compress Concat ConcatFromSequence Constant ConstantOfShape "
    "DepthToSpace Expand Flatten Gather GatherElements GatherND Identity If Loop Optional "
    "OptionalGetElement Pad Reshape ReverseSequence Scan ScatterElements ScatterND SequenceAt "
    "SequenceConstruct SequenceInsert Slice SpaceToDepth Split SplitToSequence Squeeze Tile "
    "Transpose Trilu Unsqueeze Where".split()
)
"""Operators that compute nothing themselves; casts and subgraphs are judged separately."""
STANDARD = ("", "ai.onnx")


def precision_of(model: ModelProto) -> str:
    """Decide which parity limits apply to a model.

    Dead nodes and unused tensors do not count. All outputs of a function or subgraph that is used
    count, whether they are read or not.

    Args:
        model: a model whose nodes are in topological order and whose functions are finite. Inferred
            types are used where it has them.

    Returns:
        `int8` if an output depends on arithmetic with numbers of 8 bits or fewer: on a quantised
        operator, a cast to such floats, or weights of which most are stored in such numbers; else
        `float16` if it depends on arithmetic in 16-bit floats, or on more stored 16-bit floats
        than longer ones; else `float32`.
    """
    walk = _Walk(model)
    walk.graph(model.graph, {})
    for function in walk.called:
        walk.attributes(function.attribute_proto, {})
        walk.nodes(function.node, function.output, _types_of_nodes(function.node, {}), {})
    if walk.is_quantised or walk.smalls > walk.floats:
        return "int8"
    return "float16" if walk.is_half or walk.halves > walk.floats else "float32"


class _Walk:
    """Walks backwards from outputs to everything that they depend on.

    Attributes:
        called: functions found so far, each once; their nodes are still to be walked.
        is_quantised: whether a quantised operator was found.
        is_half: whether arithmetic in 16-bit floats was found.
        floats: number of 32-bit and 64-bit elements in the tensors found.
        halves: number of 16-bit elements in the tensors found.
        smalls: number of stored elements of at most 8 bits that are cast to longer floats.
    """

    def __init__(self, model: ModelProto) -> None:
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self._found: set[tuple[str, str, str]] = set()
        self.called: list[FunctionProto] = []
        self.is_quantised = self.is_half = False
        self.floats = self.halves = self.smalls = 0

    def graph(self, graph: GraphProto, outer: Mapping[str, int]) -> set[str]:
        """Walk a graph and return the names that it needs from outside."""
        stored = [*graph.initializer, *(pair.values for pair in graph.sparse_initializer)]
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in stored}
        types = _types_of_graph(graph, stored, outer)
        needed = self.nodes(graph.node, [value.name for value in graph.output], types, sizes)
        self._count(tensor for tensor in stored if tensor.name in needed)
        return needed - {value.name for value in (*stored, *graph.input)}

    def nodes(
        self,
        nodes: Sequence[NodeProto],
        outputs: Iterable[str],
        types: Mapping[str, int],
        sizes: Mapping[str, int],
    ) -> set[str]:
        """Walk the nodes that outputs depend on and return the names that no node computes.

        Args:
            nodes: in topological order.
            outputs: names of the outputs.
            types: element type of each value that is known.
            sizes: number of elements of each stored tensor.
        """
        needed = {*outputs} - {""}
        stored = {**sizes, **{n.output[0]: _elements(n) for n in nodes if n.op_type == "Constant"}}
        for node in reversed(nodes):
            if needed.isdisjoint(node.output):
                continue
            self._add(node, types, stored)
            needed.difference_update(node.output)
            needed.update(node.input, self.attributes(node.attribute, types))
            needed.discard("")
        return needed

    def attributes(
        self, attributes: Iterable[AttributeProto], types: Mapping[str, int]
    ) -> set[str]:
        """Walk tensors and subgraphs and return the names that the subgraphs need from outside."""
        needed: set[str] = set()
        for attribute in attributes:
            self._count([attribute.t, *attribute.tensors])
            self._count(
                pair.values for pair in (attribute.sparse_tensor, *attribute.sparse_tensors)
            )
            for inner in subgraphs([attribute]):
                needed |= self.graph(inner, types)
        return needed

    def _add(self, node: NodeProto, types: Mapping[str, int], stored: Mapping[str, int]) -> None:
        key = (node.domain, node.op_type, node.overload)
        if key in self._functions:
            if key not in self._found:
                self._found.add(key)
                self.called.append(self._functions[key])
            return
        given = [types.get(name) for name in node.input]
        computed = [types.get(name) for name in node.output]
        if node.op_type in ("Cast", "CastLike"):
            self._add_cast(given[0], computed[0], stored.get(node.input[0], 0))
            return
        reads_small_weights = node.domain not in STANDARD and any(
            kind in SMALL and name in stored for kind, name in zip(given, node.input, strict=True)
        )
        self.is_quantised |= node.op_type.startswith(QUANTISED) or reads_small_weights
        if node.op_type not in MOVES or node.domain not in STANDARD:
            self.is_half |= any(kind in HALVES for kind in computed)

    def _add_cast(self, given: int | None, computed: int | None, stored: int) -> None:
        """Add a cast; `stored` is the number of elements if it reads a stored tensor."""
        is_from_float = given is None or given in FLOATS
        self.is_quantised |= computed in TINY_FLOATS
        self.is_half |= computed in HALVES and is_from_float
        if given in SMALL and computed in (*FLOATS, *HALVES):
            self.smalls += stored

    def _count(self, tensors: Iterable[TensorProto]) -> None:
        for tensor in tensors:
            if tensor.data_type in FLOATS:
                self.floats += math.prod(tensor.dims)
            elif tensor.data_type in HALVES:
                self.halves += math.prod(tensor.dims)


def _types_of_graph(
    graph: GraphProto, stored: Iterable[TensorProto], outer: Mapping[str, int]
) -> dict[str, int]:
    """Element types of the values in a graph, those around it included."""
    known = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.elem_type
    }
    tensors = {tensor.name: tensor.data_type for tensor in stored}
    return _types_of_nodes(graph.node, {**outer, **known, **tensors})


def _types_of_nodes(nodes: Iterable[NodeProto], known: Mapping[str, int]) -> dict[str, int]:
    """Element types of computed values, for those that are not known that of a float operand."""
    types = dict(known)
    for node in nodes:
        kind = _stated_type(node)
        if kind is None:
            operands = (types.get(name) for name in node.input)
            floats = (*FLOATS, *HALVES)
            kind = next((operand for operand in operands if operand in floats), None)
        if kind is not None:
            for name in node.output:
                types.setdefault(name, kind)
    return types


def _stated_type(node: NodeProto) -> int | None:
    """The element type that the attributes of a node state, or None."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.HasField("t"):
            return int(attribute.t.data_type)
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            return int(TensorProto.FLOAT)
    return None


def _elements(constant: NodeProto) -> int:
    """Number of elements of a Constant node's tensor."""
    return sum(math.prod(a.t.dims) for a in constant.attribute if a.HasField("t"))
