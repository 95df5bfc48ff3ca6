"""Each gate fails on a model that is broken in the way that the gate is there to detect."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import numpy as np
import pytest
from helpers.model_checks import RUNTIME, observed, quickly_checked, statuses_of
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
from hwnas.checking.check import check_model
from hwnas.checking.gates import serving_gates
from hwnas.checking.inputs.feeds import feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.measuring.limits import STATUS
from hwnas.latency_tables.measuring.serving import serve
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu


@pytest.fixture
def judged(tmp_path):
    """Returns the status of each gate of a model, against a reference and on data if given."""

    def judge(model, reference: ModelProto | None = None, data=None, **limits) -> dict[str, str]:
        path = saved(model, tmp_path / "model.onnx") if isinstance(model, ModelProto) else model
        right = None if reference is None else saved(reference, tmp_path / "reference.onnx")
        return observed(path, right, data, CheckConfig(**limits))[1]

    return judge


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Random images with the classes that the residual network gives them."""
    return labelled_data(saved(residual_net(), tmp_path / "labels.onnx"), tmp_path / "data.npz")


PARITY = ("parity", "sqnr", "agreement")


def test_a_model_passes_every_gate_against_itself(judged, labelled) -> None:
    statuses = judged(residual_net(), residual_net(), labelled, min_accuracy=1.0)
    assert set(statuses.values()) == {"pass"}


def difference_of(first: str, second: str, inputs: tuple[str, str], kind=np.float32) -> ModelProto:
    """y = first - second, with the two inputs declared in the given order."""
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
def test_a_reference_receives_inputs_by_name_if_equal_else_in_order(
    judged, reference, expected
) -> None:
    assert judged(difference_of("a", "b", ("a", "b")), reference)["parity"] == expected


def test_a_reference_with_another_number_of_inputs_is_refused(judged) -> None:
    with pytest.raises(InputError, match=r"reference.onnx: the reference has other inputs"):
        judged(difference_of("a", "b", ("a", "b")), residual_net())


def test_a_dropped_relu_fails_parity(judged) -> None:
    statuses = judged(without_relu(residual_net()), residual_net())
    assert statuses["parity"] == statuses["sqnr"] == "fail"
    # The runtime computes what the graph says: only the comparison with the reference fails.
    assert statuses["parity: unoptimised"] == "pass"


def test_a_wrong_input_normalisation_fails_parity_and_accuracy(judged, labelled) -> None:
    model = with_other_shift(residual_net())
    statuses = judged(model, residual_net(), labelled, min_accuracy=0.99)
    assert [statuses[name] for name in PARITY] == ["fail"] * 3
    assert statuses["accuracy"] == statuses["accuracy_drop"] == "fail"


def test_a_wrong_opset_fails_parity_or_is_refused(judged) -> None:
    statuses = judged(softmax_of_images(11), softmax_of_images(13))
    assert statuses["parity"] == statuses["sqnr"] == "fail"
    # A node of opset 11 in a model that declares 13, where `axes` is an input.
    graph = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1])
    model = model_of([graph], {"x": ("n", 3)}, {"y": ("n", 1)}, opset=11)
    model.opset_import[0].version = 13
    with pytest.raises(Exception, match="not a valid ONNX model.*axes"):
        judged(model)


@pytest.mark.parametrize("form, expected", [("QDQ", "pass"), ("QOperator", "fail")])
def test_quantisation_in_operator_form_drops_activations_and_fails(
    judged, tmp_path, form, expected
) -> None:
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
    assert statuses["parity"] == "reported"


def test_a_reshape_to_a_fixed_batch_fails(judged) -> None:
    assert judged(with_fixed_batch(residual_net()))["dynamic_batch"] == "fail"
    assert judged(residual_net())["dynamic_batch"] == "pass"


def test_an_output_shape_other_than_the_declared_one_fails(judged) -> None:
    model = residual_net()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    assert judged(model)["shapes"] == "fail"


def test_equal_constant_outputs_skip_the_parity_gates(judged) -> None:
    statuses = judged(constant_net(), constant_net())
    assert {s for name, s in statuses.items() if name.startswith(PARITY)} == {"skipped"}


def test_only_a_random_operator_that_is_used_leaves_parity_open(
    judged,
) -> None:
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


def test_noise_below_the_tolerance_disables_no_gate(judged) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], scale=1e-6),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    shapes = {"x": ("n", 4)}, {"y": ("n", 4)}
    negated = model_of([helper.make_node("Neg", ["x"], ["y"])], *shapes)
    assert judged(model_of(nodes, *shapes), negated)["parity"] == "fail"
    assert judged(model_of(nodes, *shapes), model_of(nodes, *shapes))["parity"] == "pass"


def test_a_model_that_runs_only_at_small_batches_fails(judged, tmp_path) -> None:
    """The model adds a row of a table with 16 rows to each sample of a batch."""
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
    document = quickly_checked(tmp_path / "model.onnx", limits={"measure_seconds": 2})
    assert document["verdict"] == "fail"
    assert document["batches"]["run"] == [1, 7]
    assert [row["batch"] for row in document["throughput"]] == [1, 8]


@pytest.mark.parametrize("is_reference", [False, True])
def test_an_endless_loop_that_certain_inputs_cause_is_ended(judged, is_reference) -> None:
    models = [endless_where_high(), endless_where_high(99.0)]
    with pytest.raises(InputError, match="cannot run.*takes too long, expected at most 1 s"):
        judged(*(models[::-1] if is_reference else models), max_session_seconds=1)


@pytest.mark.skipif(not STATUS.exists(), reason="limits of memory hold on Linux")
@pytest.mark.parametrize("is_reference", [False, True])
def test_memory_that_certain_inputs_need_is_limited(judged, is_reference) -> None:
    models = [large_where_high(500_000_000), large_where_high(500_000_000, 99.0)]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(InputError, match="cannot run.*(alloc|memory)"):
        judged(*(models[::-1] if is_reference else models), max_session_mb=300)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert judged(models[1], max_session_mb=300)["parity: unoptimised"] == "pass"


def test_a_provider_that_runs_no_operator_fails_placement(tmp_path, monkeypatch) -> None:
    def fallen_back(runtime, model) -> dict[str, dict[str, int]]:
        return {"OtherExecutionProvider": {"Conv": 4, "Relu": 3}}

    monkeypatch.setattr(OnnxRuntimeCpu, "placement", fallen_back)
    document = quickly_checked(saved(residual_net(), tmp_path / "m.onnx"))
    assert document["verdict"] == statuses_of(document)["placement"] == "fail"
    gates = {gate["name"]: gate for gate in document["gates"]}
    detail = "CPUExecutionProvider runs no operator, OtherExecutionProvider runs 7"
    assert gates["placement"]["detail"] == detail


def test_a_model_larger_than_the_memory_budget_fails(tmp_path) -> None:
    weight = numpy_helper.from_array(np.ones((3000, 3000), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], {"x": (1, 3000)}, {"y": (1, 3000)}, [weight])
    path = saved(model, tmp_path / "m.onnx")
    document = quickly_checked(path, budgets={"memory_budget_mb": 30.0})
    gates = {gate["name"]: gate for gate in document["gates"]}
    assert document["verdict"] == gates["memory"]["status"] == "fail"
    assert gates["memory"]["value"] > 36.0
    assert gates["memory"]["limit"] == 30.0


def test_occasional_errors_under_load_fail_serving(tmp_path) -> None:
    """The model reads a random element of a table; one index in fifty is out of range."""
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


def test_a_document_names_what_was_skipped_and_why(tmp_path) -> None:
    model = inspect_model(saved(constant_net(), tmp_path / "constant.onnx"))
    document = check_model(
        model,
        RUNTIME,
        feeds_for(model, StatedSizes(), None, 1),
        CheckRequest(budget_ms=1.0),
        measured_latency=NetworkLatency.stated(2.0, "elsewhere"),
    )
    assert document["verdict"] == "fail"
    skipped = {gate["name"] for gate in document["gates"] if gate["status"] == "skipped"}
    assert {"parity", "sqnr", "agreement", "accuracy", "parity: unoptimised"} <= skipped
    assert any("do not depend on the inputs" in note for note in document["notes"])
    assert math.isclose(document["measured"]["value_ms"], 2.0)
    assert document["runtimes"]["onnxruntime-cpu"]["placement"]["CPUExecutionProvider"]
