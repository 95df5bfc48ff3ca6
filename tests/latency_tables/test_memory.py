"""Peak memory of sessions: weights count, libraries do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.latency_tables.memory import try_session
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
