"""ONNX graphs that hold an operator in the surroundings it has in a network.

Timed alone in a session an operator would pay for the run call and for reordering its tensors
into the runtime's blocked layout, which it does not pay inside a network. So it is timed as

    input -> [1x1 convolution, ReLU] -> operator -> one pixel of the result -> output

and the same graph without the operator is subtracted. Reading one pixel, by a 1x1 pool with a
stride beyond the map, keeps the operator alive and costs the same for every shape, so that it
cancels; a global pool would not. Each graph holds several such branches, on separate inputs so
that no optimisation can merge them; their number divides the noise.

An operator that reads tokens (N, T, C) stands behind a linear layer with ReLU, and one number of
its result is read by a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]  # (C, H, W), (T, C) of vectors of tokens, or (C,) of a state

# No feature map is taller or wider.
MAX_SIDE = 4096
ELEMENT_TYPE = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@dataclass(frozen=True)
class ContextGraph:
    """A serialised model and the arrays to feed it, by input name."""

    model: bytes
    feeds: dict[str, np.ndarray]


def cut_branch(model: onnx.ModelProto, input_names: list[str], output_name: str) -> onnx.ModelProto:
    """Return the part of `model` between some of its inputs and one output."""
    return onnx.utils.Extractor(model).extract_model(input_names, [output_name])


def source_graph(operator: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> ContextGraph:
    """Return the graph of a network's first operator: it reads the input, without a context."""
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
    """Return `copies` branches of contexts followed by `operator`.

    Of several inputs all but the first are read by a pixel beside the operator, so that this
    graph reads as many pixels as its baseline.

    Args:
        operator: a graph of one output, its inputs in the order of `shapes`; None gives the
            baseline, which reads a pixel of every context.
        shapes: of each input of the operator, without the batch.
        copies: parallel branches.
        batch: images per inference.
        dtype: a key of `ELEMENT_TYPE`.
        rng: draws the inputs and the weights of the contexts.
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
    """Append the 1x1 convolution with ReLU that precedes operators in a cell; return its output.

    For vectors of tokens and states it is a linear layer.
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
    """Append a renamed copy of `operator` that reads `inputs`; return its output."""
    renamed = onnx.compose.add_prefix_graph(operator, prefix)
    for value, source in zip(renamed.input, inputs, strict=True):
        # The context feeds the operator through a name, which costs nothing once optimised.
        graph.node.append(helper.make_node("Identity", [source], [value.name]))
    graph.initializer.extend(renamed.initializer)
    graph.node.extend(renamed.node)
    return renamed.output[0].name


def _add_sink(graph: onnx.GraphProto, value: str, rank: int, element: int) -> None:
    """Make one pixel of a map, or one number of tokens, a graph output; others as they are."""
    output = f"{value}_read"
    if rank == 4:
        stride = [MAX_SIDE, MAX_SIDE]
        graph.node.append(
            helper.make_node("MaxPool", [value], [output], kernel_shape=[1, 1], strides=stride)
        )
    elif rank == 3:
        bounds = [f"{value}_{name}" for name in ("starts", "ends", "axes")]
        for name, ends in zip(bounds, ([0, 0], [1, 1], [1, 2]), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(ends, np.int64), name))
        graph.node.append(helper.make_node("Slice", [value, *bounds], [output]))
    else:
        graph.node.append(helper.make_node("Identity", [value], [output]))
    graph.output.append(helper.make_tensor_value_info(output, element, [None] * rank))


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _serialise(graph: onnx.GraphProto, operator: onnx.ModelProto | None) -> bytes:
    """Return the checked model; opset and IR version are the operator's own."""
    if operator is None:
        opsets, ir_version = [helper.make_opsetid("", 18)], 8
    else:
        opsets, ir_version = list(operator.opset_import), operator.ir_version
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    if operator is not None:
        model.functions.extend(operator.functions)
    onnx.checker.check_model(model)
    return model.SerializeToString()
