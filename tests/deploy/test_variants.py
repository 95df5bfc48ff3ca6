"""Variants of a model: what conversion preserves, their accuracy, and which is the fastest."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest
from helpers import model_checks
from helpers.small_models import CHANNELS, SIDE, labelled_data, residual_net, saved
from onnx import numpy_helper

from hwnas.config import CheckConfig
from hwnas.deploy.export import read_metadata, set_metadata
from hwnas.deploy.variants import VARIANTS, fastest, make_variant, parse_variants
from hwnas.errors import InputError
from hwnas.latency_tables.statistics import Ratio

OTHERS = [name for name in VARIANTS if name != "fp32"]


def images(count: int = 8, scale: float = 1.0) -> list[dict[str, np.ndarray]]:
    """Batches from the distribution of `labelled_data`, scaled, with another seed."""
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
    """A variant's behaviour and the status of its gates, against the model it is made from."""
    path = tmp_path / f"{name}.onnx"
    path.write_bytes(make_variant(name, source, calibration))
    data = labelled_data(source, tmp_path / "data.npz")
    return model_checks.observed(path, source, data, CheckConfig(max_accuracy_drop=0.05))


@pytest.mark.parametrize("name", OTHERS)
def test_a_variant_passes_its_gates_and_keeps_the_interface(name, source, tmp_path) -> None:
    _, statuses = observed(source, name, images(), tmp_path)
    assert set(statuses.values()) <= {"pass", "reported", "skipped"}, statuses
    assert statuses["sqnr"] == statuses["agreement"] == statuses["accuracy_drop"] == "pass"
    before, after = onnx.load(source), onnx.load(tmp_path / f"{name}.onnx")
    assert after.ir_version == before.ir_version
    assert after.opset_import == before.opset_import
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert read_metadata(after) == {"space": "made by hand", "variant": name}
    assert (tmp_path / f"{name}.onnx").read_bytes() == make_variant(name, source, images())


def test_static_variants_are_qdq_graphs_with_scales_by_channel_or_tensor(source) -> None:
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
def test_calibration_data_of_another_scale_fail_the_gates(scale, source, tmp_path) -> None:
    """Ranges that are too small clip most values; ranges that are too large round them to zero."""
    _, statuses = observed(source, "int8", images(scale=scale), tmp_path)
    for gate in ("sqnr", "agreement", "accuracy_drop"):
        assert statuses[gate] == "fail", statuses


def test_a_scale_for_each_channel_loses_less_than_one_for_the_tensor(tmp_path) -> None:
    """Channels are scaled down and their readers scaled up, which keeps the function."""
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


@pytest.mark.parametrize("name", OTHERS)
def test_temporary_files_are_in_the_given_folder_alone(name, source, tmp_path, monkeypatch) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    folder.mkdir()
    # The system's folder is not there: writing to it fails.
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    make_variant(name, source, images(2), folder)
    assert tempfile.tempdir == str(elsewhere)
    assert not list(folder.iterdir())


def test_a_failed_conversion_names_the_variant(source) -> None:
    with pytest.raises(InputError, match="cannot be converted to int8"):
        make_variant("int8", source, [])


def test_parsed_variants_begin_with_the_exported_model_and_are_unique() -> None:
    assert parse_variants("int8, fp16,int8") == ("fp32", "int8", "fp16")
    for wrong in ("int4", "", "fp16,,int8"):
        with pytest.raises(InputError, match="no such variant"):
            parse_variants(wrong)


def test_the_fastest_variant_passes_and_is_significantly_faster() -> None:
    ratios = {
        "fp32": Ratio(1.0, 1.0, 1.0),
        "fp16": Ratio(0.98, 0.95, 1.01),
        "int8": Ratio(0.5, 0.4, 0.6),
    }
    assert fastest(ratios, ["fp32", "fp16", "int8"]) == "int8"
    assert fastest(ratios, ["fp32", "fp16"]) == "fp32"
    assert fastest(ratios, ["fp16"]) == "fp16"
    assert fastest(ratios, []) is None
