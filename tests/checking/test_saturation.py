"""8-bit sums are emulated bit by bit, with and without saturation, and their effect is stated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import odd_models
from helpers.model_checks import quickly_checked
from helpers.small_models import SIDE, residual_net, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from hwnas.checking.saturation import cpu_instructions
from hwnas.checking.saturation_emulator import Emulator, pairwise_product
from hwnas.deploy.variants import make_variant
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_sums_of_two_products_saturate(seed, depth) -> None:
    """Against the definition of `vpmaddubsw`, one sum at a time."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (3, depth), dtype=np.uint8)
    b = rng.integers(-128, 128, (depth, 4), dtype=np.int8)
    expected = np.zeros((3, 4), int)
    for row in range(3):
        for column in range(4):
            products = [int(a[row, k]) * int(b[k, column]) for k in range(depth)]
            pairs = [sum(products[k : k + 2]) for k in range(0, depth, 2)]
            expected[row, column] = sum(max(-32768, min(32767, pair)) for pair in pairs)
    np.testing.assert_array_equal(pairwise_product(a, b, saturate=True), expected)
    exact = a.astype(int) @ b.astype(int)
    np.testing.assert_array_equal(pairwise_product(a, b, saturate=False), exact)


def images(scale: float) -> np.ndarray:
    shape = (8, 3, SIDE, SIDE)
    return scale * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("name", ["int8", "int8-tensor", "int8-dynamic", "int8-reduced"])
def test_without_saturation_the_emulator_computes_what_the_runtime_does(name, tmp_path) -> None:
    source = saved(residual_net(), tmp_path / "model.onnx")
    path = tmp_path / "variant.onnx"
    path.write_bytes(make_variant(name, source, [{"x": images(1.0)}]))
    emulator = Emulator(path)
    assert bool(emulator.saturating) == (name != "int8-reduced")
    (expected,) = OnnxRuntimeCpu(1).infer(path)({"x": images(1.0)}).values()
    found = emulator.run({"x": images(1.0)}, saturate=False)["y"]
    np.testing.assert_array_equal(found, expected)


def multiplied(weights: np.ndarray) -> onnx.ModelProto:
    """Inputs of any byte as uint8, times weights as int8."""
    nodes = [
        odd_models.node("MatMulInteger", "x w", "sums"),
        odd_models.node("Cast", "sums", "y", to=TensorProto.FLOAT),
    ]
    given = [odd_models.value("x", "n", 64, kind=TensorProto.UINT8)]
    outputs = [odd_models.value("y", "n", 5)]
    return odd_models.model_of(nodes, given, outputs, w=weights.astype(np.int8))


@pytest.mark.parametrize("largest, saturates", [(127, True), (64, False)])
def test_a_check_warns_of_sums_that_saturate_elsewhere(largest, saturates, tmp_path) -> None:
    weights = np.random.default_rng(0).integers(-largest, largest + 1, (64, 5))
    weights[0] = largest
    path = saved(multiplied(weights), tmp_path / "model.onnx")
    document = quickly_checked(path, limits={"measure_seconds": 0.2})
    assert document["environment"]["instructions"] == cpu_instructions()
    warnings = [text for text in document["warnings"] if "VNNI" in text]
    assert len(warnings) == saturates
    if saturates:
        assert document["saturation"]["operators"] == ["sums"]
        assert 0 < document["saturation"]["sqnr_db"] < 40
        assert "int8-reduced" in warnings[0]
    else:
        assert document["saturation"] is None


def test_weights_of_a_reduced_range_have_seven_bits(tmp_path) -> None:
    source = saved(residual_net(), tmp_path / "model.onnx")
    for name in ("int8-reduced", "int8-dynamic-reduced"):
        model = onnx.load_from_string(make_variant(name, source, [{"x": images(1.0)}]))
        arrays = map(numpy_helper.to_array, model.graph.initializer)
        weights = [array for array in arrays if array.dtype == np.int8 and array.size > 8]
        assert len(weights) == 5
        assert max(np.abs(array.astype(int)).max() for array in weights) <= 64
