"""How fast a model's largest operator is in another number format, measured in about a second.

Whether a format is faster depends on the processor: without instructions for int8, a quantised
convolution takes longer than the original one. One operator tells that before whole models are
made and measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.budget.gate import measure_together
from hwnas.deploy.variants import EXPORTED, convert
from hwnas.latency_tables.runtimes import OnnxModelRuntime
from hwnas.latency_tables.statistics import SESSION_SPREAD, Ratio, paired_ratio

KINDS = {"Conv": "convolutions", "Gemm": "matrix products", "MatMul": "matrix products"}
"""Operators that are quantised, and what they are called."""
SECONDS = 1.0
SESSIONS = 3
"""Sessions of each format: one alone may be slow because of where its memory lies."""
MIN_MACS, MOST_COPIES = 10**7, 16
"""Small operators are measured side by side, so that the call of a session counts little."""
CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class Operator:
    """An operator of a model that multiplies its input by stored weights.

    Attributes:
        node: the node; its first input is the only one that is not stored.
        stored: its other inputs.
        shape: shape of its first input.
        macs: multiply-accumulate operations.
    """

    node: NodeProto
    stored: list[TensorProto]
    shape: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class Speed:
    """How fast operators of one kind are in a number format, compared with float32.

    Attributes:
        variant: name of the variant with that format.
        kind: what the operators are called, in the plural.
        ratio: their time divided by that in float32.
    """

    variant: str
    kind: str
    ratio: Ratio

    @property
    def is_slower(self) -> bool:
        """Whether the whole interval of the ratio is above 1."""
        return self.ratio.ci_low > 1

    def sentence(self) -> str:
        """The speed in words, and what it means for the whole model if it is lower."""
        ratio = self.ratio
        text = (
            f"{self.variant}: {self.kind} run {1 / ratio.value:.2g} times as fast as in float32 "
            f"here ({1 / ratio.ci_high:.2g} to {1 / ratio.ci_low:.2g}, measured on the largest one "
            f"alone)"
        )
        return f"{text}; the whole model will probably be slower too" if self.is_slower else text


def operator_speed(
    variant: str,
    model: ModelProto,
    runtime: OnnxModelRuntime,
    batch: int,
    folder: Path | None = None,
) -> Speed | None:
    """Measure the largest operator of a model in another number format and in float32.

    The quantised operator reads and writes quantised values where the format allows it, as it does
    between two other quantised operators.

    Args:
        variant: name of the variant with that format.
        model: the exported float32 model.
        runtime: the runtime to measure on.
        batch: batch size.
        folder: for temporary files; the system's if None.

    Returns:
        The speed, or None for the exported model itself and for models without such operators.

    Raises:
        InputError: when the operator cannot be converted, or the runtime refuses it.
    """
    operator = None if variant == EXPORTED else largest_operator(model, batch)
    if operator is None:
        return None
    copies = min(max(1, MIN_MACS // operator.macs), MOST_COPIES)
    single = _model_of(operator, copies, model)
    rng = np.random.default_rng(0)
    feeds = [
        {"x": rng.standard_normal(operator.shape, dtype=np.float32)}
        for _ in range(CALIBRATION_BATCHES)
    ]
    converted = _without_conversions(
        convert(variant, single, feeds, "the largest operator", folder)
    )
    reads = converted.graph.input[0].type.tensor_type.elem_type
    given = feeds[0]["x"]
    if reads != TensorProto.FLOAT:
        given = rng.integers(0, 256, operator.shape).astype(helper.tensor_dtype_to_np_dtype(reads))
    models = {EXPORTED: (single, feeds[0]), variant: (converted, {"x": given})}
    found = measure_together(
        {
            f"{name}/{session}": runtime.prepare_onnx(made.SerializeToString(), inputs)
            for session in range(SESSIONS)
            for name, (made, inputs) in models.items()
        },
        runtime,
        seconds=SECONDS,
    )
    ours, original = (
        np.mean([found[f"{name}/{session}"] for session in range(SESSIONS)], axis=0).tolist()
        for name in (variant, EXPORTED)
    )
    ratio = paired_ratio(ours, original).widened(SESSION_SPREAD, SESSIONS)
    return Speed(variant, KINDS[operator.node.op_type], ratio)


def largest_operator(model: ModelProto, batch: int) -> Operator | None:
    """The convolution or matrix product with stored weights that takes the most operations."""
    fixed = ModelProto.FromString(model.SerializeToString())
    for value in fixed.graph.input:
        if value.type.tensor_type.shape.dim and not value.type.tensor_type.shape.dim[0].dim_value:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    # Shapes that the exporter inferred for an open batch are inferred again.
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed).graph
    shapes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = [
        operator
        for node in graph.node
        if node.op_type in KINDS and (operator := _operator(node, shapes, stored)) is not None
    ]
    return max(found, key=lambda operator: operator.macs, default=None)


def _operator(
    node: NodeProto, shapes: dict[str, tuple[int, ...]], stored: dict[str, TensorProto]
) -> Operator | None:
    """An operator, if its shapes are known and all inputs but the first are stored."""
    first, *rest = [name for name in node.input if name]
    shape, result = shapes.get(first, ()), shapes.get(node.output[0], ())
    if first in stored or any(name not in stored for name in rest) or not all(shape + result):
        return None
    weights = stored[rest[0]].dims
    if node.op_type == "Conv":
        per_output = math.prod(weights[1:])
    else:
        per_output = math.prod(weights) // max(result[-1], 1) if result else 0
    macs = math.prod(result) * per_output
    return Operator(node, [stored[name] for name in rest], shape, macs) if macs and shape else None


def _model_of(operator: Operator, copies: int, model: ModelProto) -> ModelProto:
    """A model of nothing but copies of an operator, which read one input x.

    Each copy has weights of its own: a runtime would merge equal ones.
    """
    nodes, stored, outputs = [], [], []
    for index in range(copies):
        names = [f"{tensor.name}/{index}" for tensor in operator.stored]
        for name, tensor in zip(names, operator.stored, strict=True):
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                values = values * np.float32(1 + index / 16)
            stored.append(numpy_helper.from_array(values, name))
        node = NodeProto()
        node.CopyFrom(operator.node)
        node.name = f"operator{index}"
        node.input[:] = ["x", *names]
        node.output[:] = [f"y{index}"]
        nodes.append(node)
        outputs.append(helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, None))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, operator.shape)
    graph = helper.make_graph(nodes, "operator", [given], outputs, stored)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return onnx.shape_inference.infer_shapes(made)


def _without_conversions(model: ModelProto) -> ModelProto:
    """The same model without quantising its input and dequantising its outputs.

    A quantised operator inside a model reads what another one has quantised. A model that is not
    static and in the QDQ form stays as it is.
    """
    graph = model.graph
    first = [node for node in graph.node if "x" in node.input]
    last = {name: node for node in graph.node for name in node.output}
    ends = [last[value.name] for value in graph.output]
    is_static = [node.op_type for node in first] == ["QuantizeLinear"]
    if not is_static or any(node.op_type != "DequantizeLinear" for node in ends):
        return model
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    (given,), (entry,) = graph.input, first
    given.type.tensor_type.elem_type = types[entry.input[2]]
    renamed = {entry.output[0]: "x"}
    for value, node in zip(graph.output, ends, strict=True):
        value.name, value.type.tensor_type.elem_type = node.input[0], types[node.input[2]]
    for node in (entry, *ends):
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    del graph.value_info[:]
    return model
