"""Export and check: an exported network passes, a changed one fails, a bad file is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiny import tiny_space

from hwnas.config import CheckConfig
from hwnas.data import Dataset, Split
from hwnas.deploy import check
from hwnas.deploy.check import Reference, check_model, compare, load_model
from hwnas.deploy.export import (
    IR_VERSION,
    OPSET,
    export_network,
    read_metadata,
    require_deployable,
    set_metadata,
)
from hwnas.deploy.gates import Gate, verdict_of
from hwnas.errors import HwnasError, InputError
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.spaces import SPACES

SHAPE = (1, 9, 7)


@pytest.fixture(scope="module", params=sorted(SPACES))
def exported(request, tmp_path_factory):
    """A network, its model file, and data."""
    torch.manual_seed(0)
    space = tiny_space(request.param)
    network = space.network(space.sample(np.random.default_rng(2)))
    network.auxiliary = None
    for _ in range(3):  # running statistics that are not the initial ones
        network.train()(torch.randn(8, *SHAPE))
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    model = export_network(network.eval(), SHAPE)
    set_metadata(model, {"params": "7", "budget_ms": "0.5"})
    path.write_bytes(model.SerializeToString())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, 3, 60)
    labels[:3] = [0, 1, 2]
    split = Split(images, labels.astype(np.int64))
    return network, path, Dataset("random", ("a", "b", "c"), split, split)


def checked(path, network=None, dataset=None, **changes):
    reference = None
    if network is not None:
        reference = Reference(network, dataset, lambda: pytest.fail("not a torch runtime"))
    settings = {"budget_ms": 1e4, "predicted_ms": 0.1, "batch": 1, "limits": CheckConfig()}
    return check_model(
        path, create_runtime("onnxruntime-cpu", 1), reference=reference, **settings | changes
    )


def test_exported_file_is_what_runtimes_can_load(exported) -> None:
    _, path, _ = exported
    model = onnx.load(path)
    assert model.ir_version == IR_VERSION
    assert [(e.domain, e.version) for e in model.opset_import] == [("", OPSET)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert read_metadata(model) == {"params": "7", "budget_ms": "0.5"}
    text = path.read_bytes()
    assert b"/hwnas/" not in text and b"site-packages" not in text


def test_a_faithful_export_passes_every_gate(exported) -> None:
    network, path, dataset = exported
    document = checked(path, network, dataset)
    assert document["verdict"] == "pass"
    assert {gate["status"] for gate in document["gates"]} == {"pass"}
    assert document["accuracy"]["torch"] == document["accuracy"]["onnx"]
    assert document["model"]["params"] == 7
    json.dumps(document, allow_nan=False)


def test_every_gate_can_fail(exported) -> None:
    network, path, dataset = exported
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)) * (t.data_type == 1))
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(-3 * values, weights.name))
    broken = path.with_name("broken.onnx")
    broken.write_bytes(model.SerializeToString())
    limits = CheckConfig(min_accuracy=1.0, max_accuracy_drop=0.0)
    document = checked(broken, network, dataset, budget_ms=1e-9, limits=limits)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert document["verdict"] == "fail"
    for name in ("budget", "parity", "sqnr", "accuracy"):
        assert statuses[name] == "fail", name


def test_without_a_run_parity_is_skipped_not_passed(exported) -> None:
    _, path, _ = exported
    document = checked(path)
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert statuses["budget"] == "pass"
    assert {statuses[n] for n in ("parity", "sqnr", "agreement", "accuracy")} == {"skipped"}


def test_parity_counts_not_a_number_as_broken(exported) -> None:
    network, _, dataset = exported
    reference = Reference(network, dataset, lambda: pytest.fail())
    parity = compare(reference.predict, lambda images: reference.predict(images) * np.nan, dataset)
    gates = check.parity_gates(parity, CheckConfig())
    json.dumps(parity.to_json(), allow_nan=False)
    assert {gate.status for gate in gates} == {"fail"}


def test_a_property_that_is_no_number_is_refused(exported) -> None:
    _, path, _ = exported
    model = onnx.load(path)
    set_metadata(model, {"budget_ms": "soon"})
    other = path.with_name("property.onnx")
    other.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="hwnas.budget_ms.*soon"):
        check.check_without_run(other, budget_ms=None, runtime_name=None)


def test_parity_of_a_known_error(exported) -> None:
    network, _, dataset = exported
    reference = Reference(network, dataset, lambda: pytest.fail())
    parity = compare(
        reference.predict, lambda images: reference.predict(images) * (1 + 1e-3), dataset
    )
    assert parity.sqnr_db == pytest.approx(60.0, abs=0.01)
    assert parity.top1_agreement == 1.0


@pytest.mark.parametrize(
    "statuses,verdict",
    [
        (["pass", "skipped"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
    ],
)
def test_verdict(statuses, verdict) -> None:
    assert verdict_of([Gate("g", status, None, None) for status in statuses]) == verdict


def graph_of(nodes, inputs=1, dims=("n", 1, 9, 7)) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, dims) for i in range(inputs)
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "g", values, [out])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=IR_VERSION
    )


def external_model() -> onnx.ModelProto:
    model = graph_of([helper.make_node("Add", ["x0", "w"], ["y"])])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "no such file"),
        (b"", "not an ONNX model"),
        (b"\x00\xff garbage", "not an ONNX model"),
        (external_model().SerializeToString(), "weights in another file"),
        (graph_of([helper.make_node("NoSuchOp", ["x0"], ["y"])]).SerializeToString(), "not a"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"bad.onnx.*{message}"):
        load_model(path)


def test_truncated_files_are_refused(exported, tmp_path) -> None:
    whole = exported[1].read_bytes()
    for share in (0.1, 0.5, 0.99):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="cut.onnx"):
            load_model(path)


@pytest.mark.parametrize(
    "model",
    [
        graph_of([helper.make_node("Add", ["x0", "x1"], ["y"])], inputs=2),
        graph_of([helper.make_node("Relu", ["x0"], ["y"])], dims=("n", 1, "h", "w")),
        graph_of([helper.make_node("Relu", ["x0"], ["y"])], dims=("n", 7)),
    ],
)
def test_models_that_take_no_images_are_refused(tmp_path, model) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="cannot feed the model"):
        checked(path)


@pytest.mark.parametrize("op", ["RandomNormal", "Dropout", "Bernoulli"])
def test_random_operators_are_not_deployable(op: str) -> None:
    with pytest.raises(HwnasError, match=op):
        require_deployable(graph_of([helper.make_node(op, ["x0"], ["y"])]))
