"""Writes a model in 16-bit floats as it would be in float32, to show what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, numpy_helper

from hwnas.errors import InputError
from hwnas.inspection.tensors import subgraphs
from hwnas.latency_tables.measuring.limits import run_in_process

WIDENED = "float32"
"""Name of the comparison with the model in float32."""
MOST_BYTES = 2**30
"""Largest file that is widened: the result has twice the size, and a message at most 2 GiB."""
HALVES, SINGLE = (TensorProto.FLOAT16, TensorProto.BFLOAT16), TensorProto.FLOAT
TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes that hold an element type."""


def write_widened(model: Path, target: Path) -> None:
    """Write a model whose 16-bit floats are float32: weights, values and casts.

    The file is read in a process of its own.

    Args:
        model: an inspected model.
        target: the file to write.

    Raises:
        InputError: when the model cannot be widened.
    """
    refused = InputError("cannot be compared with itself in float32", where=str(model))
    if model.stat().st_size > MOST_BYTES:
        raise refused
    if not run_in_process(_write, model, target, terminated=refused):
        raise refused


def _write(model: Path, target: Path) -> bool:
    widened = onnx.load(model)
    try:
        _widen_graph(widened.graph)
        for function in widened.functions:
            _widen_nodes(function.node)
        target.write_bytes(widened.SerializeToString())
    except ValueError:  # larger than a message may be
        return False
    return True


def _widen_graph(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for kind in _tensor_types(value.type):
            if kind.elem_type in HALVES:
                kind.elem_type = SINGLE
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    _widen_nodes(graph.node)


def _tensor_types(kind: TypeProto) -> Iterator[TypeProto.Tensor]:
    """The tensor types in a type: its own, or that of a sequence's or an optional's elements."""
    if kind.HasField("tensor_type"):
        yield kind.tensor_type
    elif kind.HasField("sequence_type"):
        yield from _tensor_types(kind.sequence_type.elem_type)
    elif kind.HasField("optional_type"):
        yield from _tensor_types(kind.optional_type.elem_type)


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(attribute)
        for graph in subgraphs(node.attribute):
            _widen_graph(graph)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
        attribute.i = SINGLE
    if attribute.HasField("t"):
        _widen_tensor(attribute.t)
    for tensor in attribute.tensors:
        _widen_tensor(tensor)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        array = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
