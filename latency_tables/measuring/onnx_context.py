"""ONNX graphs that put an operator into a context like that of a network.

The time of an operator alone in a session includes the overhead of a run and the reordering of its
tensors into the runtime's blocked layout, neither of which it has inside a network. Therefore

    input -> [1x1 convolution, ReLU] -> operator -> one pixel of the result -> output

is timed, and the time of the same graph without the operator is subtracted. The pixel is read by a
1x1 pooling whose stride is larger than the feature map. It protects the operator from dead-code
elimination and takes the same time for every shape, so that it cancels in the difference; global
pooling would not. Each graph has several such branches, which reduce the noise. Their inputs are
separate, so that no optimisation can merge them.

An operator on tokens (N, T, C) follows a linear layer with ReLU, and one number of its result is
read by a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
"""An input without its batch dimension: a map (C, H, W), embedded tokens (T, C) or a state (C,)."""

MAX_SIDE = 4096
"""Larger than the height and width of any feature map."""
ELEMENT_TYPE = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True)
class ContextGraph:
    """A serialised model and its input arrays, by name."""

    model: bytes
    feeds: dict[str, np.ndarray]


def cut_branch(model: onnx.ModelProto, input_names: list[str], output_name: str) -> onnx.ModelProto:
    """Return the part of `model` between some of its inputs and one output."""
    return onnx.utils.Extractor(model).extract_model(input_names, [output_name])


def source_graph(operator: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> ContextGraph:
    """Return the graph of a network's first operator, which reads the input without a context."""
    graph = onnx.GraphProto()
    graph.CopyFrom(operator.graph)
    result = graph.output.pop()
    _add_sink(graph, result.name, _rank(result), result.type.tensor_type.elem_type)
    return ContextGraph(_serialise(graph, operator), feeds)


def operator_graph(
    operator: onnx.ModelProto | None,
    shapes: list[Shape],
    *,
    copies: int,
    batch: int,
    dtype: str,
    rng: np.random.Generator,
) -> ContextGraph:
    """Return a graph of `copies` parallel branches, each a context followed by `operator`.

    If the operator has several inputs, a pixel of each context but the first is also an output, so
    that the graph has as many outputs as its baseline.

    Args:
        operator: a model with one output and inputs in the order of `shapes`; None gives the
            baseline, which outputs a pixel of every context.
        shapes: shape of each input of the operator, without the batch.
        copies: number of parallel branches.
        batch: images per inference.
        dtype: a key of `ELEMENT_TYPE`.
        rng: generator of the inputs and of the contexts' weights.
    """
    graph = onnx.GraphProto(name="operator_in_context")
    element = ELEMENT_TYPE[dtype]
    feeds: dict[str, np.ndarray] = {}
    for copy in range(copies):
        prefix = f"copy{copy}_"
        context_outputs = []
        for index, shape in enumerate(shapes):
            name = f"{prefix}input{index}"
            feeds[name] = rng.standard_normal((batch, *shape)).astype(dtype)
            graph.input.append(helper.make_tensor_value_info(name, element, (batch, *shape)))
            context_outputs.append(_add_context(graph, name, shape, dtype, rng))
        if operator is None:
            _add_sink(graph, context_outputs[0], 1 + len(shapes[0]), element)
        else:
            result = _add_operator(graph, operator.graph, context_outputs, prefix)
            _add_sink(graph, result, _rank(operator.graph.output[0]), element)
        for other, shape in zip(context_outputs[1:], shapes[1:], strict=True):
            _add_sink(graph, other, 1 + len(shape), element)
    return ContextGraph(_serialise(graph, operator), feeds)


def _add_context(
    graph: onnx.GraphProto, source: str, shape: Shape, dtype: str, rng: np.random.Generator
) -> str:
    """Append a context, a 1x1 convolution with ReLU, and return the name of its output.

    For embedded tokens and states the context is a linear layer with ReLU.
    """
    is_map = len(shape) == 3
    channels = shape[0] if is_map else shape[-1]
    weight = rng.standard_normal((channels, channels)) / np.sqrt(channels)
    initializers = {
        "weight": weight.reshape(channels, channels, 1, 1) if is_map else weight,
        "bias": rng.standard_normal(channels),
    }
    for name, array in initializers.items():
        graph.initializer.append(numpy_helper.from_array(array.astype(dtype), f"{source}_{name}"))
    names = [source, f"{source}_weight", f"{source}_bias"]
    if is_map:
        graph.node.append(
            helper.make_node("Conv", names, [f"{source}_linear"], kernel_shape=[1, 1])
        )
    else:
        graph.node.append(helper.make_node("MatMul", names[:2], [f"{source}_product"]))
        graph.node.append(
            helper.make_node("Add", [f"{source}_product", names[2]], [f"{source}_linear"])
        )
    graph.node.append(helper.make_node("Relu", [f"{source}_linear"], [f"{source}_relu"]))
    return f"{source}_relu"


def _add_operator(
    graph: onnx.GraphProto, operator: onnx.GraphProto, inputs: list[str], prefix: str
) -> str:
    """Append a renamed copy of `operator` that reads `inputs`, and return its output's name."""
    renamed = onnx.compose.add_prefix_graph(operator, prefix)
    for value, source in zip(renamed.input, inputs, strict=True):
        # These nodes only connect names; graph optimisation removes them.
        graph.node.append(helper.make_node("Identity", [source], [value.name]))
    graph.initializer.extend(renamed.initializer)
    graph.node.extend(renamed.node)
    return str(renamed.output[0].name)


def _add_sink(graph: onnx.GraphProto, value: str, rank: int, element: int) -> None:
    """Make one pixel of a map, one number of tokens, or a whole state an output of the graph."""
    output = f"{value}_read"
    if rank == 4:
        stride = [MAX_SIDE, MAX_SIDE]
        graph.node.append(
            helper.make_node("MaxPool", [value], [output], kernel_shape=[1, 1], strides=stride)
        )
    elif rank == 3:
        bounds = [f"{value}_{name}" for name in ("starts", "ends", "axes")]
        for name, values in zip(bounds, ([0, 0], [1, 1], [1, 2]), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        graph.node.append(helper.make_node("Slice", [value, *bounds], [output]))
    else:
        graph.node.append(helper.make_node("Identity", [value], [output]))
    graph.output.append(helper.make_tensor_value_info(output, element, [None] * rank))


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _serialise(graph: onnx.GraphProto, operator: onnx.ModelProto | None) -> bytes:
    """Return the serialised model, with the opset and IR version of `operator`."""
    if operator is None:
        opsets, ir_version = [helper.make_opsetid("", 18)], 8
    else:
        opsets, ir_version = list(operator.opset_import), operator.ir_version
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    if operator is not None:
        model.functions.extend(operator.functions)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
