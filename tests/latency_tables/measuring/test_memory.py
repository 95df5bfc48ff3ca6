"""Peak memory of sessions: weights count, libraries do not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from helpers.profiled import rows
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import InputError
from hwnas.latency_tables.measuring import memory
from hwnas.latency_tables.measuring.memory import STATUS, Batches, allocating_at_most, try_session
from hwnas.latency_tables.runtimes import OnnxRuntime, create_runtime


def matmul(side: int) -> bytes:
    """A model whose one weight is a square matrix of float32."""
    weight = numpy_helper.from_array(np.ones((side, side), dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, side])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_larger_weight_takes_more_memory() -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    found = {}
    for side in (64, 4000):
        feeds = {"x": np.ones((1, side), dtype=np.float32)}
        found[side] = try_session(runtime, matmul(side), feeds).memory_mb
        if found[side] is None:
            pytest.skip("this system does not tell")
    weight_mb = 4000 * 4000 * 4 / 1e6
    assert found[64] < 40
    # A session may hold a copy in its own layout beside the file's.
    assert weight_mb < found[4000] < 4 * weight_mb + 40


def loop() -> bytes:
    """Runs its body once for one sample, for ever for more."""
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


def test_a_batch_without_an_end_is_stopped() -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    batches = Batches([1, 7], partial(rows, width=4), first=1, max_seconds=2.0, always=3)
    feeds = rows(1, width=4)
    assert try_session(runtime, loop(), feeds, replace(batches, sizes=[1])).batches == (1,)
    with pytest.raises(InputError, match="was terminated, expected at most 1 s"):
        try_session(runtime, loop(), feeds, batches, limit_s=1)


def test_batches_that_a_model_refuses_are_told() -> None:
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    batches = Batches([1, 2, 3], partial(rows, width=64), first=1, max_seconds=2.0, always=3)
    found = try_session(runtime, matmul(64), rows(1, width=64), batches, limit_s=60)
    assert found.batches == (1,)
    assert set(found.failures) == {2, 3}


def test_outputs_whose_shape_changes_from_run_to_run() -> None:
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
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    with pytest.raises(InputError, match="ONNX Runtime cannot run the model"):
        try_session(runtime, model, rows(1, width=400))


@pytest.mark.skipif(not STATUS.exists(), reason="limits of memory hold on Linux")
def test_arrays_count_against_a_limit_as_well() -> None:
    with (
        pytest.raises(InputError, match="m.onnx: running.*at most 100 MB"),
        allocating_at_most(100.0, "m.onnx"),
    ):
        np.ones(50_000_000)
    assert np.ones(50_000_000).size
    with allocating_at_most(None, "m.onnx"):
        assert np.ones(50_000_000).size


def test_what_is_not_stated_leaves_some_of_the_free_memory(tmp_path, monkeypatch) -> None:
    free = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "FREE", free)
    assert memory.session_limit_mb(None, 2) == 16_000
    free.write_text("MemFree: 1 kB\nMemAvailable:    5000000 kB\n")
    assert memory.session_limit_mb(None, 2) == pytest.approx(0.8 * 5120)
    assert memory.session_limit_mb(300.0, 2) == 600
