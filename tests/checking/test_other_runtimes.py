"""The check on a runtime other than ONNX Runtime: its outputs and its latency."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.model_checks import quickly_checked, statuses_of
from helpers.small_models import SIDE, model_of, residual_net, saved, without_relu
from onnx import helper

from hwnas.checking.inputs.open_sizes import parse_shapes
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes.openvino import OpenVinoCpu

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def checked_on_openvino(path, **options):
    return quickly_checked(
        path, limits={"measure_seconds": 2}, runtime_name="openvino-cpu", **options
    )


def test_a_model_is_checked_on_openvino(tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "model.onnx")
    budgets = {"budget_ms": 1e4, "memory_budget_mb": 2000}
    document = checked_on_openvino(path, budgets=budgets, reference=inspect_model(path))
    statuses = statuses_of(document)
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
    path = saved(residual_net(), tmp_path / "model.onnx")
    limits = {"compare": ["openvino-cpu", "onnxruntime-cpu"]}
    document = quickly_checked(path, limits=limits)
    statuses = statuses_of(document)
    assert statuses["parity: openvino-cpu"] == statuses["sqnr: openvino-cpu"] == "pass"
    assert document["parity_with"]["openvino-cpu"]["sqnr_db"] > 80
    assert document["runtimes"]["openvino-cpu"]["placement"]["CPU"]["Convolution"] == 4
    assert document["measured"]["runtime"] == "onnxruntime-cpu"

    def halved(self, model, *, limit_s=None):
        return lambda feeds: {name: 0.5 * y for name, y in infer(self, model)(feeds).items()}

    infer = OpenVinoCpu.infer
    monkeypatch.setattr(OpenVinoCpu, "infer", halved)
    statuses = statuses_of(quickly_checked(path, limits=limits))
    assert statuses["parity: openvino-cpu"] == "fail"
    assert statuses["parity: unoptimised"] == "pass"


@pytest.mark.parametrize(
    "name, error", [("torch-cpu", InputError), ("tensorrt-cuda", RuntimeMissingError)]
)
def test_a_runtime_that_cannot_be_compared_with_is_refused(name, error, tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "model.onnx")
    with pytest.raises(error, match=name):
        quickly_checked(path, limits={"compare": [name]})


def test_a_model_without_a_relu_fails_on_openvino(tmp_path) -> None:
    path = saved(without_relu(residual_net()), tmp_path / "changed.onnx")
    reference = inspect_model(saved(residual_net(), tmp_path / "model.onnx"))
    document = checked_on_openvino(path, reference=reference)
    statuses = statuses_of(document)
    assert document["verdict"] == statuses["parity"] == "fail"
    assert statuses["parity: onnxruntime-cpu"] == "pass"


def test_an_operator_that_openvino_lacks_is_an_input_error(tmp_path) -> None:
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
        checked_on_openvino(saved(model, tmp_path / "model.onnx"))


def test_a_fixed_batch_and_an_open_size_run_on_openvino(tmp_path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = saved(model_of(nodes, {"x": (2, 3, "w")}, {"y": (2, 3, "w")}), tmp_path / "m.onnx")
    (shapes,) = parse_shapes([f"x:2x3x{SIDE}"])
    document = checked_on_openvino(path, shapes=shapes)
    assert document["verdict"] == "pass"
    assert document["batch"] == 2
    assert np.isfinite(document["measured"]["value_ms"])
