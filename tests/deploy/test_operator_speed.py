"""One operator tells whether a number format is faster here, before whole models are measured."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.model_checks import RUNTIME
from helpers.small_models import CHANNELS, SIDE, constant_net, model_of, residual_net
from onnx import helper, numpy_helper

from hwnas.deploy import operator_speed as module
from hwnas.deploy.operator_speed import Speed, largest_operator, operator_speed
from hwnas.deploy.variants import convert
from hwnas.latency_tables.statistics import Ratio


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setattr(module, "MIN_MACS", 10**5)


def test_the_operator_with_the_most_multiplications_is_chosen() -> None:
    found = largest_operator(residual_net(1), batch=2)
    assert found is not None
    assert list(found.node.input) == ["r0", "w0"]
    assert found.shape == (2, CHANNELS, SIDE, SIDE)
    assert found.macs == 2 * CHANNELS * SIDE * SIDE * CHANNELS * 9


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_matrix_products_are_counted(op) -> None:
    tensor = numpy_helper.from_array(np.ones((6, 5), np.float32), "w")
    node = helper.make_node(op, ["x", "w"], ["y"])
    found = largest_operator(model_of([node], {"x": ("n", 6)}, {"y": ("n", 5)}, [tensor]), batch=3)
    assert found is not None
    assert (found.shape, found.macs) == ((3, 6), 90)


def test_a_model_without_weights_has_no_such_operator() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = model_of([node], {"x": ("n", 6)}, {"y": ("n", 6)})
    assert largest_operator(model, batch=1) is None
    assert operator_speed("int8", model, RUNTIME, 1) is None
    assert operator_speed("fp32", constant_net(), RUNTIME, 1) is None


@pytest.mark.parametrize("variant", ["int8", "int8-dynamic", "fp16"])
def test_the_operator_is_measured_in_both_formats(quick, variant) -> None:
    found = operator_speed(variant, residual_net(1), RUNTIME, 1)
    assert found is not None
    assert (found.variant, found.kind) == (variant, "convolutions")
    assert 0 < found.ratio.ci_low <= found.ratio.value <= found.ratio.ci_high


def test_a_quantised_operator_reads_and_writes_quantised_values() -> None:
    operator = largest_operator(residual_net(1), batch=1)
    assert operator is not None
    model = module._model_of(operator, 2, residual_net(1))
    feeds = {"x": np.random.default_rng(0).standard_normal(operator.shape, dtype=np.float32)}
    whole = convert("int8", model, [feeds], "here")
    expected = onnxruntime.InferenceSession(whole.SerializeToString()).run(None, feeds)
    scales = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    entry = next(node for node in whole.graph.node if node.input[0] == "x")
    ends = [next(n for n in whole.graph.node if v.name in n.output) for v in whole.graph.output]
    scale, zero = (scales[name] for name in entry.input[1:])
    inner = module._without_conversions(onnx.ModelProto.FromString(whole.SerializeToString()))
    extremes = np.iinfo(zero.dtype)
    quantised = np.clip(np.rint(feeds["x"] / scale) + zero, extremes.min, extremes.max)
    session = onnxruntime.InferenceSession(inner.SerializeToString())
    assert session.get_inputs()[0].type == "tensor(int8)"
    results = session.run(None, {"x": quantised.astype(zero.dtype)})
    for node, found, right in zip(ends, results, expected, strict=True):
        scale, zero = (scales[name] for name in node.input[1:])
        np.testing.assert_allclose((found.astype(int) - zero) * scale, right, atol=float(scale))


def test_a_slower_format_is_said_with_its_range() -> None:
    slower = Speed("int8", "convolutions", Ratio(1.25, 1.2, 1.3))
    assert slower.is_slower
    assert slower.sentence() == (
        "int8: convolutions run 0.8 times as fast as in float32 here (0.77 to 0.83, measured on "
        "the largest one alone); the whole model will probably be slower too"
    )
    assert not Speed("int8", "convolutions", Ratio(1.25, 0.9, 1.3)).is_slower
    faster = Speed("int8", "matrix products", Ratio(0.5, 0.4, 0.6))
    assert faster.sentence().endswith("alone)")
