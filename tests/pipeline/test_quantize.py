"""Any ONNX model is converted to other number formats, judged and measured."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from helpers import odd_models
from helpers.small_models import SIDE, labelled_data, residual_net, saved
from onnx import TensorProto

import hwnas.cli.app
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.deploy import mixed_precision
from hwnas.deploy.sensitivity import named_nodes
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.pipeline.quantize import Quantization, quantize
from hwnas.runs import interruption

REQUEST = CheckRequest(CheckConfig(measure_seconds=1, max_accuracy_drop=0.1))


@pytest.fixture
def model(tmp_path):
    return saved(residual_net(), tmp_path / "model.onnx")


@pytest.fixture
def data(model, tmp_path):
    return labelled_data(model, tmp_path / "data.npz")


def quantized(model, data, out, names, **options):
    what = Quantization(("fp32", *names), **options)
    return quantize(inspect_model(model), data, out, what, REQUEST)


def test_each_variant_is_judged_and_measured_beside_the_model(model, data, tmp_path) -> None:
    names = ("fp16", "int8", "int8-dynamic")
    document = quantized(model, data, tmp_path / "out", names, sensitivity=True)
    assert json.loads((tmp_path / "out" / "variants.json").read_text()) == document
    assert {entry["verdict"] for entry in document["variants"].values()} == {"pass"}
    assert document["calibration_samples"] == 200
    for name in names:
        entry = document["variants"][name]
        assert entry["accuracy"]["reference"] == 1.0
        assert entry["ratio"]["value"] > 0
        onnx.checker.check_model(tmp_path / "out" / entry["model"])
    found = document["sensitivity"]
    assert {entry["operator"] for entry in found} == {"Conv", "MatMul"}
    assert [e["sqnr_db"] for e in found] == sorted(e["sqnr_db"] for e in found)
    whole = document["variants"]["int8"]["parity"]["sqnr_db"]
    assert all(entry["sqnr_db"] > whole for entry in found)


def test_a_node_that_is_left_out_stays_float32(model, data, tmp_path) -> None:
    first = named_nodes(onnx.load(model)).graph.node[1]
    assert first.op_type == "Conv"
    document = quantized(model, data, tmp_path / "out", ("int8",), exclude=(first.name,))
    assert document["exclude"] == [first.name]
    made = onnx.load(tmp_path / "out" / document["variants"]["int8"]["model"])
    (kept,) = [node for node in made.graph.node if node.name == first.name]
    assert kept.input[1] == first.input[1]


def test_a_model_of_an_old_opset_without_labels_is_converted(tmp_path) -> None:
    model = saved(residual_net(opset=11), tmp_path / "model.onnx")
    images = np.random.default_rng(0).standard_normal((40, 3, SIDE, SIDE), dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=images)
    document = quantized(model, tmp_path / "data.npz", tmp_path / "out", ("int8",))
    entry = document["variants"]["int8"]
    assert (entry["error"], entry["metric"]) == (None, None)
    assert entry["parity"]["sqnr_db"] > 15


def test_what_cannot_be_converted_is_refused(model, data, tmp_path) -> None:
    with pytest.raises(InputError, match="no node of that name.*got nothing"):
        quantized(model, data, tmp_path / "out", ("int8",), exclude=("nothing",))
    half = saved(odd_models.float16_sum(1.0), tmp_path / "half.onnx")
    with pytest.raises(InputError, match="only float32 models.*float16"):
        quantized(half, data, tmp_path / "out", ("int8",))
    assert not (tmp_path / "out").exists()


def test_a_variant_in_which_nothing_is_converted_is_an_error(tmp_path, capfd) -> None:
    """Weights within branches stay as they are, and so do those in float64."""
    wide = [odd_models.value(name, "n", 4, kind=TensorProto.DOUBLE) for name in ("x", "y")]
    weights = odd_models.random_weights(4, 4).astype(np.float64)
    nodes = [odd_models.node("MatMul", "x w", "y")]
    model = saved(odd_models.model_of(nodes, wide[:1], wide[1:], w=weights), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((20, 4)))
    document = quantized(model, tmp_path / "data.npz", tmp_path / "out", ("int8-dynamic",))
    error = document["variants"]["int8-dynamic"]["error"]
    assert "no operator on which an output depends was converted" in error
    assert not list((tmp_path / "out").glob("*.onnx"))
    assert "[W:onnxruntime" not in capfd.readouterr().err


def test_samples_without_a_range_are_refused(model, tmp_path) -> None:
    images = np.full((4, 3, SIDE, SIDE), np.nan, np.float32)
    np.savez(tmp_path / "data.npz", x=images)
    with pytest.raises(InputError, match="data.npz: x: NaN or infinity among the samples"):
        quantized(model, tmp_path / "data.npz", tmp_path / "out", ("int8",))


def test_the_command_prints_the_variants(model, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(interruption, "install", lambda: None)
    arguments = ["quantize", model, "--data", data, "--out", tmp_path / "out", "--variants", "fp16"]
    with pytest.raises(SystemExit) as stopped:
        hwnas.cli.app.main([*map(str, arguments), "--set", "check.measure_seconds=1"])
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert "fp16" in out
    assert "fastest that passes" in out


@pytest.mark.slow
def test_operators_are_quantised_where_that_pays(model, data, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(mixed_precision, "SECONDS", 0.1)
    first = named_nodes(onnx.load(model)).graph.node[1].name
    document = quantized(model, data, tmp_path / "out", ("int8-mixed",), exclude=(first,))
    mixed, variants = document["mixed"], document["variants"]
    if not mixed:  # int8 is faster nowhere on this processor
        assert "faster than float32" in variants["int8-mixed"]["error"]
        return
    assert set(variants) == {"fp32", *mixed}
    for name, choice in mixed.items():
        assert first in choice["float32"]
        assert choice["predicted_ratio"] < 1
        made = onnx.load(tmp_path / "out" / variants[name]["model"])
        kept = {node.name for node in made.graph.node if node.op_type == "Conv"}
        assert kept >= {first}
        assert variants[name]["parity"]["sqnr_db"] > 15
