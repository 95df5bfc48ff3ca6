"""Variants of a model: what is kept, what each is worth, and which one is named the fastest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers.small_models import CHANNELS, SIDE, labelled_data, residual_net, saved
from onnx import numpy_helper

from hwnas.config import CheckConfig
from hwnas.deploy.behaviour import observe, onnx_reference, probe
from hwnas.deploy.check import behaviour_gates
from hwnas.deploy.export import read_metadata, set_metadata
from hwnas.deploy.feeds import feeds_for
from hwnas.deploy.variants import VARIANTS, fastest, make_variant, parse_variants
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.statistics import Ratio

RUNTIME = OnnxRuntimeCpu(1)
OTHERS = [name for name in VARIANTS if name != "fp32"]


def images(count: int = 8, scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    """Batches of the distribution that `labelled_data` draws from, with other seeds."""
    rng = np.random.default_rng(7)
    shape = (32, 3, SIDE, SIDE)
    return [
        {"x": np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)}
        for _ in range(count)
    ]


@pytest.fixture
def source(tmp_path):
    model = residual_net()
    set_metadata(model, {"space": "made by hand"})
    return saved(model, tmp_path / "model.onnx")


def observed(source, name, calibration, tmp_path):
    """A variant's behaviour and the statuses of its gates, against the model it is made from."""
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(make_variant(name, source, calibration))
    model, right = inspect_model(path), inspect_model(source)
    feeds = feeds_for(model, {}, labelled_data(source, tmp_path / "data.npz"), 1)
    limits = CheckConfig(max_accuracy_drop=0.05)
    reference = onnx_reference(right, RUNTIME, feeds, limits)
    trial = probe(model, RUNTIME, feeds, limits)
    behaviour = observe(model, RUNTIME, feeds, reference, trial, limits)
    gates = behaviour_gates(model, feeds, behaviour, limits)
    return behaviour, {gate.name: gate.status for gate in gates}


@pytest.mark.parametrize("name", OTHERS)
def test_a_variant_passes_its_gates_and_keeps_the_interface(name, source, tmp_path) -> None:
    behaviour, statuses = observed(source, name, images(), tmp_path)
    assert set(statuses.values()) <= {"pass", "skipped"}, statuses
    assert statuses["sqnr"] == statuses["agreement"] == statuses["accuracy_drop"] == "pass"
    before, after = onnx.load(source), onnx.load(tmp_path / f"{name}.onnx")
    assert after.ir_version == before.ir_version
    assert after.opset_import == before.opset_import
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert read_metadata(after) == {"space": "made by hand", "variant": name}
    assert (tmp_path / f"{name}.onnx").read_bytes() == make_variant(name, source, images())


def test_static_variants_are_pairs_around_float_operators(source) -> None:
    for name, scales in (("int8", CHANNELS), ("int8-tensor", 1)):
        model = onnx.load_from_string(make_variant(name, source, images()))
        kinds = {node.op_type for node in model.graph.node}
        assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
        assert not any(kind.startswith("QLinear") for kind in kinds)
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        assert numpy_helper.to_array(stored["w0_scale"]).size == scales


def test_weights_of_float16_are_rounded_to_the_nearest(source) -> None:
    made = onnx.load_from_string(make_variant("fp16", source, []))
    halves = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    for tensor in onnx.load(source).graph.initializer:
        expected = numpy_helper.to_array(tensor).astype(np.float16)
        np.testing.assert_array_equal(halves[tensor.name], expected)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_wrong_calibration_fails(scale, source, tmp_path) -> None:
    """Ranges that are too small clip everything; too large ones round it to nothing."""
    _, statuses = observed(source, "int8", images(scale=scale), tmp_path)
    for gate in ("sqnr", "agreement", "accuracy_drop"):
        assert statuses[gate] == "fail", statuses


def test_a_scale_for_each_channel_keeps_small_channels(tmp_path) -> None:
    """The function is the one before: what a channel is divided by, its readers multiply by."""
    model = residual_net(1)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scale = np.where(np.arange(CHANNELS) % 2, 1.0, 1 / 8).astype(np.float32)
    changed = {
        "stem": stored["stem"] * scale[:, None, None, None],
        "w0": stored["w0"] * scale[:, None, None, None] / scale[:, None, None],
        "head": stored["head"] / np.repeat(scale, SIDE * SIDE)[:, None],
    }
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    source = saved(model, tmp_path / "model.onnx")
    found = {}
    for name in ("int8", "int8-tensor"):
        behaviour, _ = observed(source, name, images(), tmp_path)
        found[name] = behaviour.parity.sqnr_db
    assert found["int8"] > found["int8-tensor"] + 2, found


def test_what_cannot_be_converted_is_named(source) -> None:
    with pytest.raises(InputError, match="cannot be converted to int8"):
        make_variant("int8", source, [])


def test_names() -> None:
    assert parse_variants("int8, fp16,int8") == ("fp32", "int8", "fp16")
    for wrong in ("int4", "", "fp16,,int8"):
        with pytest.raises(InputError, match="no such variant"):
            parse_variants(wrong)


def test_the_fastest_is_one_that_passes_and_is_faster_beyond_noise() -> None:
    ratios = {
        "fp32": Ratio(1.0, 1.0, 1.0),
        "fp16": Ratio(0.98, 0.95, 1.01),
        "int8": Ratio(0.5, 0.4, 0.6),
    }
    assert fastest(ratios, ["fp32", "fp16", "int8"]) == "int8"
    assert fastest(ratios, ["fp32", "fp16"]) == "fp32"
    assert fastest(ratios, ["fp16"]) == "fp16"
    assert fastest(ratios, []) is None
