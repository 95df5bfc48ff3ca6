"""The check on a runtime that is not ONNX Runtime: its outputs and its latency are judged."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_models import SIDE, model_of, residual_net, without_relu
from onnx import helper

from hwnas.config import CheckConfig
from hwnas.deploy.check import check_file
from hwnas.deploy.feeds import parse_shapes
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes.openvino import OpenVinoCpu

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def checked(path, **settings):
    return check_file(
        inspect_model(path),
        limits=CheckConfig(measure_seconds=2),
        runtime_name="openvino-cpu",
        **settings,
    )


def test_a_model_is_judged_by_what_openvino_computes(tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "model.onnx")
    document = checked(path, budget_ms=1e4, reference=inspect_model(path), memory_budget_mb=2000)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert document["verdict"] == "pass"
    for other in ("", ": unoptimised", ": onnxruntime-cpu"):
        assert statuses[f"parity{other}"] == statuses[f"sqnr{other}"] == "pass"
    assert statuses["memory"] == "pass"
    assert document["memory_mb"] > 0
    assert document["measured"]["runtime"] == "openvino-cpu"
    assert document["batches"]["run"] == [1, 7, 64]
    assert [row["batch"] for row in document["throughput"]] == [1, 8, 32]
    assert document["runtimes"]["openvino-cpu"]["placement"]["CPU"]["Convolution"] == 4
    assert document["environment"]["options"]["INFERENCE_PRECISION_HINT"] == "f32"


def test_outputs_are_compared_with_those_of_further_runtimes(tmp_path, monkeypatch) -> None:
    model = inspect_model(saved(residual_net(), tmp_path / "model.onnx"))
    limits = CheckConfig(measure_seconds=1, compare=["openvino-cpu", "onnxruntime-cpu"])
    document = check_file(model, limits=limits)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert statuses["parity: openvino-cpu"] == statuses["sqnr: openvino-cpu"] == "pass"
    assert document["parity_with"]["openvino-cpu"]["sqnr_db"] > 80
    assert document["runtimes"]["openvino-cpu"]["placement"]["CPU"]["Convolution"] == 4
    assert document["measured"]["runtime"] == "onnxruntime-cpu"

    def halved(self, model, *, limit_s=None):
        return lambda feeds: {name: 0.5 * y for name, y in infer(self, model)(feeds).items()}

    infer = OpenVinoCpu.infer
    monkeypatch.setattr(OpenVinoCpu, "infer", halved)
    gates = {gate["name"]: gate["status"] for gate in check_file(model, limits=limits)["gates"]}
    assert gates["parity: openvino-cpu"] == "fail"
    assert gates["parity: unoptimised"] == "pass"


@pytest.mark.parametrize(
    "name, error", [("torch-cpu", InputError), ("tensorrt-cuda", RuntimeMissingError)]
)
def test_what_cannot_be_compared_with_is_named(name, error, tmp_path) -> None:
    model = inspect_model(saved(residual_net(), tmp_path / "model.onnx"))
    with pytest.raises(error, match=name):
        check_file(model, limits=CheckConfig(measure_seconds=1, compare=[name]))


def test_a_changed_model_fails_on_it(tmp_path) -> None:
    path = saved(without_relu(residual_net()), tmp_path / "changed.onnx")
    reference = inspect_model(saved(residual_net(), tmp_path / "model.onnx"))
    document = checked(path, reference=reference)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert document["verdict"] == statuses["parity"] == "fail"
    assert statuses["parity: onnxruntime-cpu"] == "pass"


def test_an_operator_that_it_lacks_is_an_input_error(tmp_path) -> None:
    node = helper.make_node("Nothing", ["x"], ["y"], domain="elsewhere")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 2])],
        [helper.make_tensor_value_info("y", 1, [1, 2])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(InputError, match="OpenVINO"):
        checked(saved(model, tmp_path / "model.onnx"))


def test_a_fixed_batch_and_an_open_size(tmp_path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = saved(model_of(nodes, {"x": (2, 3, "w")}, {"y": (2, 3, "w")}), tmp_path / "m.onnx")
    document = checked(path, shapes=parse_shapes([f"x:2x3x{SIDE}"]))
    assert document["verdict"] == "pass"
    assert document["batch"] == 2
    assert np.isfinite(document["measured"]["value_ms"])
