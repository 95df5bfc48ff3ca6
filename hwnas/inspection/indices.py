"""Which inputs are indices, and how large they may be: seen through Gather and its kin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from hwnas.inspection.tensors import subgraphs

Size = int | str
"""A number of rows: an integer, or the symbol of a size that is open."""

MOVES = frozenset(
    "Cast Identity Reshape Squeeze Unsqueeze Flatten Transpose Slice Expand Tile Split Gather "
    "GatherElements GatherND Compress DepthToSpace SpaceToDepth Concat".split()
)
"""Operators whose first output holds values of their first input, or of all for Concat."""
BY_AXIS = {"Gather": 0, "GatherElements": 0, "ScatterElements": 0, "Scatter": 0}
"""Operators with a table first and indices of its rows second, with their default axis."""
OF_ROWS = {
    "EmbedLayerNormalization": ((0, 2), (1, 4)),
    "GatherBlockQuantized": ((1, 0),),
    "RotaryEmbedding": ((1, 2),),
    "RoiAlign": ((2, 0),),
}
"""Operators that take indices of a table's rows, with the places of indices and of the table."""
LOSSES = ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
MOST_CALLS = 1000
"""Function calls that are followed."""


@dataclass(frozen=True)
class _Carried:
    """A value that is an input plus a number."""

    source: str
    offset: int = 0


def index_limits(model: ModelProto, inputs: Iterable[str]) -> dict[str, Size]:
    """The number that each input must stay below, for inputs that are indices.

    Args:
        model: a valid model with inferred shapes.
        inputs: names of inputs.

    Returns:
        The size of the smallest table that the input indexes, by name; other inputs are left out.
    """
    walk = _Walk(model)
    walk.graph(model.graph, {name: _Carried(name) for name in inputs}, {})
    return walk.limits


class _Walk:
    """Follows inputs to the operators that use them as indices.

    Attributes:
        limits: what was found so far, by input.
    """

    def __init__(self, model: ModelProto) -> None:
        self._functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self._calls = 0
        self.limits: dict[str, Size] = {}

    def graph(
        self,
        graph: GraphProto,
        carried: Mapping[str, _Carried],
        shapes: Mapping[str, Sequence[Size | None]],
    ) -> None:
        """Follow values into a graph; both maps are those of the graph around it."""
        known = dict(shapes)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                known[value.name] = [dim.dim_value or dim.dim_param or None for dim in dims]
        known |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        numbers = {
            tensor.name: int(numpy_helper.to_array(tensor).ravel()[0])
            for tensor in graph.initializer
            if _is_number(tensor)
        }
        self._nodes(graph.node, dict(carried), known, numbers)

    def _nodes(
        self,
        nodes: Iterable[NodeProto],
        carried: dict[str, _Carried],
        shapes: dict[str, Sequence[Size | None]],
        numbers: dict[str, int],
    ) -> None:
        for node in nodes:
            if node.op_type == "Constant":
                _add_constant(node, shapes, numbers)
            for graph in subgraphs(node.attribute):
                self.graph(graph, carried, shapes)
            if not any(name in carried for name in node.input):
                continue
            self._use(node, carried, shapes, numbers)
            moved = _moved(node, carried, numbers)
            if moved is not None:
                carried |= dict.fromkeys(node.output, moved)
            function = self._functions.get((node.domain, node.op_type, node.overload))
            if function is not None and self._calls < MOST_CALLS:
                self._calls += 1
                self._call(function, node, carried, shapes)

    def _call(
        self,
        function: FunctionProto,
        node: NodeProto,
        carried: Mapping[str, _Carried],
        shapes: Mapping[str, Sequence[Size | None]],
    ) -> None:
        pairs = list(zip(function.input, node.input, strict=False))
        inner = {ours: carried[theirs] for ours, theirs in pairs if theirs in carried}
        known = {ours: shapes[theirs] for ours, theirs in pairs if theirs in shapes}
        self._nodes(function.node, inner, known, {})

    def _use(
        self,
        node: NodeProto,
        carried: Mapping[str, _Carried],
        shapes: Mapping[str, Sequence[Size | None]],
        numbers: Mapping[str, int],
    ) -> None:
        """Note the limits of the inputs that a node uses as indices."""
        for place, size in _limits_of(node, shapes, numbers):
            found = carried.get(node.input[place]) if place < len(node.input) else None
            if found is None or size is None:
                continue
            if isinstance(size, int):
                size = max(1, size - found.offset)
            self.limits[found.source] = _smaller(self.limits.get(found.source), size)


def _limits_of(
    node: NodeProto, shapes: Mapping[str, Sequence[Size | None]], numbers: Mapping[str, int]
) -> list[tuple[int, Size | None]]:
    """Places of a node's inputs that are indices, and the size of what each one indexes."""
    kind = node.op_type
    if kind in BY_AXIS:
        return [(1, _dimension(node, 0, _attribute(node, "axis", BY_AXIS[kind]), shapes))]
    if kind in OF_ROWS:
        return [(index, _dimension(node, table, 0, shapes)) for index, table in OF_ROWS[kind]]
    if kind in ("GatherND", "ScatterND"):
        first = _attribute(node, "batch_dims", 0)
        depth = _dimension(node, 1, -1, shapes)
        dims = list(shapes.get(node.input[0], ()))[first:]
        sizes = dims[:depth] if isinstance(depth, int) else dims
        known = [size for size in sizes if isinstance(size, int)]
        return [(1, min(known, default=None))]
    if kind == "OneHot":
        return [(0, numbers.get(node.input[1]))]
    if kind in LOSSES:
        return [(1, _dimension(node, 0, 1, shapes))]
    return []


def _dimension(
    node: NodeProto, place: int, axis: int, shapes: Mapping[str, Sequence[Size | None]]
) -> Size | None:
    """A size of one of a node's inputs, or None if it is not known."""
    shape = shapes.get(node.input[place], ()) if place < len(node.input) else ()
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _moved(
    node: NodeProto, carried: Mapping[str, _Carried], numbers: Mapping[str, int]
) -> _Carried | None:
    """What a node's first output holds, if it still holds the values of an input."""
    if node.op_type in ("Add", "Sub") and len(node.input) == 2:
        first, second = node.input
        if node.op_type == "Add" and second in carried:
            first, second = second, first
        sign = 1 if node.op_type == "Add" else -1
        if first in carried and second in numbers:
            found = carried[first]
            return _Carried(found.source, found.offset + sign * numbers[second])
        return None
    if node.op_type not in MOVES:
        return None
    places = node.input if node.op_type == "Concat" else node.input[:1]
    return next((carried[name] for name in places if name in carried), None)


def _smaller(one: Size | None, other: Size) -> Size:
    """The stricter of two limits; a number is preferred to a symbol, whose size is not known."""
    if one is None:
        return other
    numbers = [size for size in (one, other) if isinstance(size, int)]
    return min(numbers) if numbers else one


def _add_constant(
    node: NodeProto, shapes: dict[str, Sequence[Size | None]], numbers: dict[str, int]
) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            shapes[node.output[0]] = list(attribute.t.dims)
            if _is_number(attribute.t):
                numbers[node.output[0]] = int(numpy_helper.to_array(attribute.t).ravel()[0])
        elif attribute.name == "value_int":
            numbers[node.output[0]] = attribute.i


def _is_number(tensor: TensorProto) -> bool:
    """Whether a tensor is one stored integer."""
    is_integer = tensor.data_type in (TensorProto.INT32, TensorProto.INT64)
    return is_integer and all(size == 1 for size in tensor.dims) and not tensor.external_data


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
