"""Builders of ONNX models that are not validated, so that they may be broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
BIG = 4096
"""Number of elements of a tensor so large that the inspection does not copy its data."""


def node(op: str, inputs: str, outputs: str, **attributes) -> NodeProto:
    domain = attributes.pop("domain", "")
    return helper.make_node(op, inputs.split(), outputs.split(), domain=domain, **attributes)


def value(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, dims or ("n", 4))


def model_of(
    *nodes: NodeProto,
    stored: tuple[TensorProto, ...] = (),
    inputs: tuple[onnx.ValueInfoProto, ...] | None = None,
    outputs: tuple[onnx.ValueInfoProto, ...] | None = None,
    functions: tuple[FunctionProto, ...] = (),
    opset: int = 18,
) -> ModelProto:
    """A small model; by default one input `x` and one output `y`."""
    graph = helper.make_graph(
        nodes or [node("Relu", "x", "y")],
        "g",
        (value("x"),) if inputs is None else inputs,
        (value("y"),) if outputs is None else outputs,
        stored,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def with_weights(size: int = 4, **fields) -> ModelProto:
    """A model that adds a weight of zeros whose fields are changed, or removed by None."""
    weight = numpy_helper.from_array(np.zeros(size, np.float32), "w")
    for key, changed in fields.items():
        if key == "dims":
            del weight.dims[:]
            weight.dims.extend(changed)
        elif changed is None:
            weight.ClearField(key)
        else:
            setattr(weight, key, changed)
    return model_of(node("Add", "x w", "y"), stored=(weight,), inputs=(value("x", "n", size),))


def external(
    folder: Path, location: str, present: int | None = 16, **entries: object
) -> ModelProto:
    """A model whose weight is in another file, which is written unless `present` is None."""
    if present is not None and not (folder / location).exists():
        (folder / location).write_bytes(bytes(present))
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(entry))
    return model_of(node("Add", "x w", "y"), stored=(weight,))


def valid_bytes() -> bytes:
    return with_weights(BIG).SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of a length and bytes."""
    length, size = bytearray(), len(content)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content


def function(name: str, *nodes: NodeProto) -> FunctionProto:
    """A function from `a` to `b` in the domain `local`."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, opsets)
