"""Each gate of what a model computes fails on a model that was broken on purpose."""

from __future__ import annotations

import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_models import (
    SIDE,
    constant_net,
    endless_where_high,
    labelled_data,
    large_where_high,
    model_of,
    residual_net,
    saved,
    softmax_of_images,
    with_fixed_batch,
    with_other_shift,
    without_relu,
)
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwnas.budget.gate import NetworkLatency
from hwnas.config import CheckConfig
from hwnas.deploy.behaviour import observe, onnx_reference, probe
from hwnas.deploy.check import check_file, check_model
from hwnas.deploy.feeds import feeds_for
from hwnas.deploy.gates import (
    batch_gate,
    confidence_gate,
    memory_gates,
    parity_gates,
    parity_limits,
    placement_gates,
    predicted_gate,
    score_gates,
    serving_gates,
    shapes_gate,
)
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.measuring.memory import STATUS
from hwnas.latency_tables.measuring.serving import Serving, serve
from hwnas.latency_tables.runtimes import (
    OnnxModelRuntime,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    create_runtime,
)

RUNTIME = OnnxRuntimeCpu(1)


@pytest.fixture
def judged(tmp_path):
    """Statuses by gate of a model against a reference, on labelled data if there are any."""

    def judge(model, reference: ModelProto | None = None, data=None, **limits) -> dict[str, str]:
        path = saved(model, tmp_path / "model.onnx") if isinstance(model, ModelProto) else model
        inspected = inspect_model(path)
        feeds = feeds_for(inspected, {}, data, 1)
        config, other = CheckConfig(**limits), None
        if reference is not None:
            right = inspect_model(saved(reference, tmp_path / "reference.onnx"))
            other = onnx_reference(right, RUNTIME, feeds, config)
        trial = probe(inspected, RUNTIME, feeds, config)
        found = observe(inspected, RUNTIME, feeds, other, trial, config)
        held_to = parity_limits(inspected.precision, config)
        gates = [
            shapes_gate(found.contradiction),
            batch_gate(feeds.is_dynamic, found.failures, found.batches),
            *parity_gates(found.parity, held_to, is_wanted=other is not None),
            *parity_gates(found.parity_with["unoptimised"], held_to, "unoptimised"),
            *score_gates(found.score, config),
        ]
        return {gate.name: gate.status for gate in gates}

    return judge


PARITY = ("parity", "sqnr", "agreement")


def test_a_model_keeps_parity_with_itself(judged, tmp_path) -> None:
    data = labelled_data(saved(residual_net(), tmp_path / "m.onnx"), tmp_path / "data.npz")
    statuses = judged(residual_net(), residual_net(), data, min_accuracy=1.0)
    assert set(statuses.values()) == {"pass"}


def difference_of(first: str, second: str, inputs: tuple[str, str], kind=np.float32) -> ModelProto:
    """y = first - second, with the two inputs declared in some order."""
    node = helper.make_node("Sub", [first, second], ["y"])
    model = model_of([node], dict.fromkeys(inputs, ("n", 3)), {"y": ("n", 3)})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return model


@pytest.mark.parametrize(
    "reference, expected",
    [
        (difference_of("a", "b", ("b", "a")), "pass"),
        (difference_of("left", "right", ("left", "right")), "pass"),
        (difference_of("left", "right", ("left", "right"), np.float64), "pass"),
        (difference_of("left", "right", ("right", "left")), "fail"),
    ],
)
def test_a_reference_is_fed_by_name_or_in_order(judged, reference, expected) -> None:
    assert judged(difference_of("a", "b", ("a", "b")), reference)["parity"] == expected


def test_a_reference_of_other_inputs_is_refused(judged) -> None:
    with pytest.raises(InputError, match=r"reference.onnx: the reference takes other inputs"):
        judged(difference_of("a", "b", ("a", "b")), residual_net())


def test_a_dropped_relu(judged) -> None:
    statuses = judged(without_relu(residual_net()), residual_net())
    assert statuses["parity"] == statuses["sqnr"] == "fail"
    # The runtime itself is not to blame.
    assert statuses["parity: unoptimised"] == "pass"


def test_a_shifted_normalisation(judged, tmp_path) -> None:
    data = labelled_data(saved(residual_net(), tmp_path / "m.onnx"), tmp_path / "data.npz")
    statuses = judged(with_other_shift(residual_net()), residual_net(), data, min_accuracy=0.99)
    assert [statuses[name] for name in PARITY] == ["fail"] * 3
    assert statuses["accuracy"] == statuses["accuracy_drop"] == "fail"


def test_a_wrong_opset(judged) -> None:
    statuses = judged(softmax_of_images(11), softmax_of_images(13))
    assert statuses["parity"] == statuses["sqnr"] == "fail"
    # Written for another opset than it states, and out of the operator's signature.
    graph = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1])
    model = model_of([graph], {"x": ("n", 3)}, {"y": ("n", 1)}, opset=11)
    model.opset_import[0].version = 13
    with pytest.raises(Exception, match="not a valid ONNX model.*axes"):
        judged(model)


@pytest.mark.parametrize("form, expected", [("QDQ", "pass"), ("QOperator", "fail")])
def test_quantisation_by_operators_drops_activations(judged, tmp_path, form, expected) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(5)
            shape = (8, 3, SIDE, SIDE)
            self._left = iter([rng.standard_normal(shape, dtype=np.float32) for _ in range(8)])

        def get_next(self):
            images = next(self._left, None)
            return None if images is None else {"x": images}

    source, target = saved(residual_net(), tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    quantize_static(source, target, Images(), quant_format=QuantFormat[form])
    statuses = judged(target, residual_net())
    assert statuses["sqnr"] == statuses["agreement"] == expected
    assert statuses["parity"] == "skipped"


def test_a_batch_written_into_a_reshape(judged) -> None:
    assert judged(with_fixed_batch(residual_net()))["dynamic_batch"] == "fail"
    assert judged(residual_net())["dynamic_batch"] == "pass"


def test_a_shape_that_is_not_the_declared_one(judged) -> None:
    model = residual_net()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert judged(model)["shapes"] == "fail"


def test_nothing_is_read_from_constant_outputs(judged) -> None:
    statuses = judged(constant_net(), constant_net())
    assert {s for name, s in statuses.items() if name.startswith(PARITY)} == {"skipped"}


def test_a_random_operator_switches_no_gate_off(judged) -> None:
    dead = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("RandomNormalLike", ["x"], ["dead"]),
    ]
    shapes = {"x": ("n", 4)}, {"y": ("n", 4)}
    negated = model_of([helper.make_node("Neg", ["x"], ["y"])], *shapes)
    statuses = judged(model_of(dead, *shapes), negated)
    assert statuses["parity"] == statuses["sqnr"] == "fail"
    assert statuses["parity: unoptimised"] == "pass"
    random = model_of([helper.make_node("RandomNormalLike", ["x"], ["y"])], *shapes)
    statuses = judged(random, negated)
    assert {statuses[name] for name in PARITY} == {"inconclusive"}
    assert statuses["parity: unoptimised"] == "skipped"


def test_a_little_noise_switches_no_gate_off(judged) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], scale=1e-6),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    shapes = {"x": ("n", 4)}, {"y": ("n", 4)}
    negated = model_of([helper.make_node("Neg", ["x"], ["y"])], *shapes)
    assert judged(model_of(nodes, *shapes), negated)["parity"] == "fail"
    assert judged(model_of(nodes, *shapes), model_of(nodes, *shapes))["parity"] == "pass"


def test_a_model_of_few_batches_fails(judged, tmp_path) -> None:
    """Adds a row of a table to each sample: there are 16."""
    stored = {"table": np.ones((16, 3), np.float32), "zero": np.array(0), "one": np.array(1)}
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], start=0, end=1),
        helper.make_node("Squeeze", ["sizes"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["rows"]),
        helper.make_node("Gather", ["table", "rows"], ["taken"]),
        helper.make_node("Add", ["x", "taken"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    model = model_of(nodes, {"x": ("n", 3)}, {"y": ("n", 3)}, tensors)
    assert judged(model)["dynamic_batch"] == "fail"
    document = check_file(
        inspect_model(tmp_path / "model.onnx"), limits=CheckConfig(measure_seconds=2)
    )
    assert document["verdict"] == "fail"
    assert document["batches"]["run"] == [1, 7]
    assert [row["batch"] for row in document["throughput"]] == [1, 8]


@pytest.mark.parametrize("is_reference", [False, True])
def test_a_loop_without_an_end_for_certain_values_is_ended(judged, is_reference) -> None:
    models = [endless_where_high(), endless_where_high(99.0)]
    with pytest.raises(InputError, match="cannot run.*takes too long, expected at most 1 s"):
        judged(*(models[::-1] if is_reference else models), max_session_seconds=1)


@pytest.mark.skipif(not STATUS.exists(), reason="limits of memory hold on Linux")
@pytest.mark.parametrize("is_reference", [False, True])
def test_memory_for_certain_values_is_limited(judged, is_reference) -> None:
    models = [large_where_high(500_000_000), large_where_high(500_000_000, 99.0)]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(InputError, match="cannot run.*(alloc|memory)"):
        judged(*(models[::-1] if is_reference else models), max_session_mb=300)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert judged(models[1], max_session_mb=300)["parity: unoptimised"] == "pass"


def test_memory_and_serving() -> None:
    assert [g.status for g in memory_gates(20.0, 10.0)] == ["fail"]
    good = Serving(2, 1.0, 100, 0, 100.0, {}, 200.0, 1.0)
    leaking = Serving(2, 1.0, 100, 0, 100.0, {}, 200.0, 17.0)
    failing = Serving(2, 1.0, 100, 1, 100.0, {}, 200.0, 1.0)
    for serving, statuses in ((good, "pass pass"), (leaking, "pass fail"), (failing, "fail pass")):
        assert " ".join(gate.status for gate in serving_gates(serving)) == statuses
    assert serving_gates(None) == []


def checked_on_this_machine(model: ModelProto, path: Path, **settings) -> dict[str, Any]:
    """The gates by name, measured for as short as possible."""
    inspected = inspect_model(saved(model, path))
    limits = CheckConfig(measure_seconds=1)
    document = check_file(inspected, limits=limits, **settings)
    return {gate["name"]: gate for gate in document["gates"]} | {"verdict": document["verdict"]}


def test_a_provider_that_runs_nothing(tmp_path, monkeypatch) -> None:
    def fallen_back(runtime, model) -> dict[str, dict[str, int]]:
        return {"OtherExecutionProvider": {"Conv": 4, "Relu": 3}}

    monkeypatch.setattr(OnnxRuntimeCpu, "placement", fallen_back)
    gates = checked_on_this_machine(residual_net(), tmp_path / "m.onnx")
    assert gates["verdict"] == gates["placement"]["status"] == "fail"
    detail = "CPUExecutionProvider runs no operator, OtherExecutionProvider runs 7"
    assert gates["placement"]["detail"] == detail


@pytest.mark.parametrize(
    "found, status",
    [
        ({"placement": {"CPUExecutionProvider": {"Shape": 2}}}, "fail"),
        ({"placement": {"CPUExecutionProvider": {"Shape": 2}, "CUDA": {}}}, "fail"),
        ({"placement": {"CUDAExecutionProvider": {"Conv": 1}}}, "pass"),
        ({"placement": {}}, "skipped"),
        ({"missing": "refused"}, "inconclusive"),
    ],
)
def test_placement_is_asked_of_the_first_provider(found, status) -> None:
    assert [gate.status for gate in placement_gates(OnnxRuntimeCuda(1), found)] == [status]
    other = create_runtime("openvino-cpu", 1)
    assert isinstance(other, OnnxModelRuntime)
    assert placement_gates(other, found) == []


def test_predictions() -> None:
    assert confidence_gate(0.95, 0.9).status == confidence_gate(0.9, 0.9).status == "pass"
    assert confidence_gate(0.89, 0.9).status == "fail"
    # A prediction at the budget may be over it by rounding.
    for bound_ms, status in ((1.9, "pass"), (2.0 + 1e-9, "pass"), (2.1, "fail")):
        gate = predicted_gate("phone", bound_ms, 2.0)
        assert (gate.name, gate.status) == ("budget: phone", status)


def test_a_large_weight_and_a_small_budget_of_memory(tmp_path) -> None:
    weight = numpy_helper.from_array(np.ones((3000, 3000), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], {"x": (1, 3000)}, {"y": (1, 3000)}, [weight])
    gates = checked_on_this_machine(model, tmp_path / "m.onnx", memory_budget_mb=30.0)
    assert gates["verdict"] == gates["memory"]["status"] == "fail"
    assert gates["memory"]["value"] > 36.0
    assert gates["memory"]["limit"] == 30.0


def test_a_model_that_fails_now_and_then_under_load(tmp_path) -> None:
    """Takes an element from a place that is out of reach once in fifty times, not the first."""
    stored = {"fifty": np.array(50.0, np.float32), "table": np.ones(49, np.float32)}
    nodes = [
        helper.make_node("RandomUniform", [], ["u"], shape=[1], seed=1.0),
        helper.make_node("Mul", ["u", "fifty"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["taken"]),
        helper.make_node("Add", ["x", "taken"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    path = saved(model_of(nodes, {"x": (1, 3)}, {"y": (1, 3)}, tensors), tmp_path / "m.onnx")
    feeds = {"x": np.zeros((1, 3), np.float32)}
    serving = serve(RUNTIME, path, feeds, threads=2, seconds=0.5)
    errors = serving_gates(serving)[0]
    assert (errors.name, errors.status, errors.value) == ("serving_errors", "fail", 2)


def test_a_check_names_what_it_cannot_tell(tmp_path) -> None:
    model = inspect_model(saved(constant_net(), tmp_path / "constant.onnx"))
    document = check_model(
        model,
        RUNTIME,
        feeds_for(model, {}, None, 1),
        budget_ms=1.0,
        predicted_ms=None,
        limits=CheckConfig(),
        stated=NetworkLatency.stated(2.0, "elsewhere"),
    )
    assert document["verdict"] == "fail"
    skipped = {gate["name"] for gate in document["gates"] if gate["status"] == "skipped"}
    assert {"parity", "sqnr", "agreement", "accuracy", "parity: unoptimised"} <= skipped
    assert any("do not depend on the inputs" in note for note in document["notes"])
    assert math.isclose(document["measured"]["value_ms"], 2.0)
    assert document["runtimes"]["onnxruntime-cpu"]["placement"]["CPUExecutionProvider"]
