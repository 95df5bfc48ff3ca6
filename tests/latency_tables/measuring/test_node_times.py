"""Shares of the time by node: from the profiler's events, and of a session that really ran."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.latency_tables.measuring.node_times import NodeShare, _shares, node_shares
from hwnas.latency_tables.runtimes import OnnxRuntime, create_runtime


def run_event(start: int, duration: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration, "args": {}}


def node_event(name: str, operator: str, start: int, duration: int) -> dict[str, Any]:
    args = {"op_name": operator}
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": args
    }  # fmt: skip


def test_slow_runs_and_those_that_warm_up_count_nothing() -> None:
    events = []
    # A run to warm up, three quiet ones and two that were disturbed.
    for start, duration, conv in ((0, 90, 80), (100, 20, 6), (200, 20, 6), (300, 80, 70),
                                  (400, 20, 6), (500, 90, 5)):  # fmt: skip
        events.append(node_event("conv", "Conv", start + 1, conv))
        events.append(node_event("relu", "Relu", start + 85, 2))
        events.append(run_event(start, duration))
    found = _shares(events, 1)
    assert found == [NodeShare("conv", "Conv", 0.75), NodeShare("relu", "Relu", 0.25)]


def test_a_session_tells_its_nodes() -> None:
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in ("x", "y")]
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"], name="first"),
        helper.make_node("Softmax", ["h"], ["y"], name="second"),
    ]
    graph = helper.make_graph(nodes, "two", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    found = node_shares(runtime, model.SerializeToString(), {"x": np.ones((1, 8), np.float32)})
    assert sum(node.share for node in found) == pytest.approx(1.0)
    assert ("second", "Softmax") in {(node.name, node.operator) for node in found}
