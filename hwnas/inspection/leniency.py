"""What the ONNX standard does not allow but runtimes take: it is noted, and no refusal.

Only the copy in memory is mended, so that the checker of onnx judges what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto
from onnx.helper import make_tensor_value_info

from hwnas.inspection.tensors import subgraphs

STANDARD_DOMAIN = "ai.onnx"
"""The name of the standard domain, which models leave empty."""
GRAPH_NAME = "graph"


def mend(model: ModelProto) -> list[str]:
    """Mend what runtimes take although the standard does not allow it.

    Args:
        model: is changed: the standard domain is left empty, sizes of -1 become open sizes, and
            the graph has a name.

    Returns:
        A note for each kind of thing that was mended or that `with_shapes` adds.
    """
    notes = []
    graphs = [model.graph, *(t.algorithm for t in model.training_info)]
    spelt_out = [node for graph in graphs for node in _nodes(graph.node)]
    spelt_out += [node for function in model.functions for node in _nodes(function.node)]
    spelt_out = [node for node in spelt_out if node.domain == STANDARD_DOMAIN]
    for node in spelt_out:
        node.domain = ""
    if spelt_out:
        notes.append(f"the standard domain is spelt out as {STANDARD_DOMAIN!r} in a node")
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value == -1:
                dim.Clear()
                notes.append(f"{value.name!r} has a size of -1, which is taken for an open size")
    if not model.graph.name:
        model.graph.name = GRAPH_NAME
        notes.append("the graph has no name")
    missing = [value.name for value in _without_shape(model.graph)]
    notes += [f"{name!r} is declared without a shape" for name in missing]
    return list(dict.fromkeys(notes))


def with_shapes(model: ModelProto) -> ModelProto:
    """The model, or a copy in which inputs and outputs without a shape have one.

    The checker of onnx asks for a shape but does not compare it with anything.
    """
    if not any(True for _ in _without_shape(model.graph)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for value in _without_shape(copy.graph):
        value.type.tensor_type.shape.CopyFrom(TensorShapeProto())
    return copy


def with_dense_weights(model: ModelProto) -> ModelProto:
    """The model, or a copy in which sparse weights of the main graph are inputs of their shape.

    The inference of shapes by onnx takes the shape of sparse weights for that of a scalar.
    """
    if not model.graph.sparse_initializer:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    declared = {value.name for value in copy.graph.input}
    for weights in model.graph.sparse_initializer:
        if weights.values.name not in declared:
            value = make_tensor_value_info(
                weights.values.name, weights.values.data_type, weights.dims
            )
            copy.graph.input.append(value)
    del copy.graph.sparse_initializer[:]
    return copy


def _without_shape(graph: GraphProto) -> Iterator[ValueInfoProto]:
    """The tensors among inputs and outputs that have an element type and no shape."""
    for value in (*graph.input, *graph.output):
        if _is_tensor(value.type) and not value.type.tensor_type.HasField("shape"):
            yield value


def _is_tensor(kind: TypeProto) -> bool:
    return kind.HasField("tensor_type") and bool(kind.tensor_type.elem_type)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those in their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs(node.attribute):
            yield from _nodes(graph.node)
