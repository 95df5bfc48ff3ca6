"""Trial runs of models: peak memory without libraries, limits of time, and batch sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.runtime_models import rows
from helpers.small_models import model_of
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.memory import TrialBatches, try_session
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu

RUNTIME = OnnxRuntimeCpu(1)


def matmul(side: int) -> bytes:
    """A model whose one weight is a square matrix of float32."""
    weight = numpy_helper.from_array(np.ones((side, side), dtype=np.float32), "weight")
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    return model_of(nodes, {"x": (1, side)}, {"y": (1, side)}, [weight]).SerializeToString()


def test_a_larger_weight_takes_more_memory() -> None:
    found = {}
    for side in (64, 4000):
        found[side] = try_session(RUNTIME, matmul(side), rows(1, side)).memory_mb
        if found[side] is None:
            pytest.skip("this system has no counter of peak memory")
    weight_mb = 4000 * 4000 * 4 / 1e6
    assert found[64] < 40
    # A session may keep a second copy of the weights in its own layout.
    assert weight_mb < found[4000] < 4 * weight_mb + 40


def loop() -> bytes:
    """A model with a loop that runs once for a batch of one and practically forever otherwise."""
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("on", "on2"), ("s", "s2"))],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s2", TensorProto.FLOAT, [1]),
        ],
    )
    stored = {"one": np.array([1]), "huge": np.array([2**62]), "true": np.array(True)}
    stored |= {"zero": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Greater", ["size", "one"], ["several"]),
        helper.make_node("Where", ["several", "huge", "one"], ["trip"]),
        helper.make_node("Squeeze", ["trip"], ["trips"]),
        helper.make_node("Loop", ["trips", "true", "zero"], ["o"], body=body),
        helper.make_node("Add", ["x", "o"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "loop", shapes[:1], shapes[1:], tensors)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_a_batch_that_never_ends_is_stopped() -> None:
    batches = TrialBatches([1, 7], partial(rows, width=4), first=1, max_seconds=2.0, always=3)
    feeds = rows(1, width=4)
    assert try_session(RUNTIME, loop(), feeds, replace(batches, sizes=[1])).batches == (1,)
    with pytest.raises(InputError, match="was terminated, expected at most 1 s"):
        try_session(RUNTIME, loop(), feeds, batches, limit_s=1)


def test_batch_sizes_that_a_model_refuses_are_reported() -> None:
    batches = TrialBatches([1, 2, 3], partial(rows, width=64), first=1, max_seconds=2.0, always=3)
    found = try_session(RUNTIME, matmul(64), rows(1, width=64), batches, limit_s=60)
    assert found.batches == (1,)
    assert set(found.failures) == {2, 3}


def test_outputs_whose_shape_changes_between_runs_are_refused() -> None:
    nodes = [
        helper.make_node("RandomUniformLike", ["x"], ["u"]),
        helper.make_node("Round", ["u"], ["ones"]),
        helper.make_node("NonZero", ["ones"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 400])
    computed = helper.make_tensor_value_info("y", TensorProto.INT64, [2, "k"])
    graph = helper.make_graph(nodes, "random", [given], [computed])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(InputError, match="ONNX Runtime cannot run the model"):
        try_session(RUNTIME, model, rows(1, width=400))
