"""Shares of time by node, from made-up events of the profiler and from a real session."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
from helpers.runtime_models import rows
from helpers.small_models import model_of
from onnx import helper, numpy_helper

from hwnas.latency_tables.measuring.node_times import NodeShare, _shares, node_shares
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu


def run_event(start: int, duration: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": duration, "args": {}}


def node_event(name: str, operator: str, start: int, duration: int) -> dict[str, Any]:
    args = {"op_name": operator}
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": duration, "args": args
    }  # fmt: skip


def test_slow_runs_and_warm_up_runs_are_ignored() -> None:
    events = []
    # A warm-up run, three undisturbed runs and two disturbed ones.
    for start, duration, conv in ((0, 90, 80), (100, 20, 6), (200, 20, 6), (300, 80, 70),
                                  (400, 20, 6), (500, 90, 5)):  # fmt: skip
        events.append(node_event("conv", "Conv", start + 1, conv))
        events.append(node_event("relu", "Relu", start + 85, 2))
        events.append(run_event(start, duration))
    found = _shares(events, 1)
    assert found == [NodeShare("conv", "Conv", 0.75), NodeShare("relu", "Relu", 0.25)]


def test_the_shares_of_a_session_add_up_and_name_its_nodes(tmp_path, monkeypatch) -> None:
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["h"], name="first"),
        helper.make_node("Softmax", ["h"], ["y"], name="second"),
    ]
    model = model_of(nodes, {"x": (1, 8)}, {"y": (1, 8)}, [weight]).SerializeToString()
    # The profiler's file is in the given folder: the system's one is not there.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    found = node_shares(OnnxRuntimeCpu(1), model, rows(1, 8), tmp_path)
    assert not list(tmp_path.iterdir())
    assert sum(node.share for node in found) == pytest.approx(1.0)
    assert ("second", "Softmax") in {(node.name, node.operator) for node in found}
