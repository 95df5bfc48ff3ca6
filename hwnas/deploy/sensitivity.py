"""How much each operator of a model loses when it alone is quantised to int8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from hwnas.checking.outputs import Feeds, as_predict
from hwnas.checking.parity import compare_outputs
from hwnas.deploy.variants import convert
from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxModelRuntime

QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Gather")
"""Operators with weights, which decide the error of a quantised model."""
MOST_OPERATORS = 200
"""Operators that are tried, those with the most weights first."""


def operator_sensitivity(
    model: onnx.ModelProto,
    runtime: OnnxModelRuntime,
    calibration: Sequence[Feeds],
    where: str,
    progress: Callable[[int, int, str], None],
) -> list[dict[str, Any]]:
    """Quantise each operator with weights alone, and compare the outputs with those in float32.

    Args:
        model: a float32 model whose nodes have names.
        runtime: runs the model.
        calibration: batches of real inputs; the outputs are compared on them too.
        where: the model file, for errors.
        progress: called with the operators done, their number, and the name of the next.

    Returns:
        For each operator its `node`, `operator` and `sqnr_db`, the most sensitive one first; or
        `error` where it cannot be quantised alone. An `sqnr_db` of None is no error at all.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    candidates = [
        node
        for node in model.graph.node
        if node.op_type in QUANTISED and any(name in weights for name in node.input)
    ]
    names = [node.name for node in candidates]
    sizes = {
        node.name: sum(_elements(weights[n]) for n in node.input if n in weights)
        for node in candidates
    }
    chosen = sorted(candidates, key=lambda node: -sizes[node.name])[:MOST_OPERATORS]
    others = [node.name for node in model.graph.node if node.name not in names]
    expected = _outputs(model, runtime, calibration, where)
    found = []
    for done, node in enumerate(chosen):
        progress(done, len(chosen), node.name)
        exclude = [*others, *(name for name in names if name != node.name)]
        entry: dict[str, Any] = {"node": node.name, "operator": node.op_type, "error": None}
        try:
            quantised = convert("int8", model, calibration, where, exclude=exclude)
            outputs = _outputs(quantised, runtime, calibration, where)
            entry["sqnr_db"] = compare_outputs(expected, outputs, where).sqnr_db
        except InputError as error:
            entry |= {"sqnr_db": None, "error": str(error)}
        found.append(entry)
    return sorted(found, key=_order)


def named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, in which every node of the main graph has a name of its own."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)
    return model


def _order(entry: dict[str, Any]) -> float:
    """The least SQNR first, operators without an error of quantisation last."""
    return float("inf") if entry["sqnr_db"] is None else float(entry["sqnr_db"])


def _elements(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _outputs(
    model: onnx.ModelProto, runtime: OnnxModelRuntime, calibration: Sequence[Feeds], where: str
) -> list[list[Any]]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        predict = as_predict(runtime.infer(path), where)
        return [[*predict(feeds).values()] for feeds in calibration]
