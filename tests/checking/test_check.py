"""Export and check: an exported network passes, a changed one fails, a bad file is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from helpers.model_checks import statuses_of
from helpers.tiny import spaces_to_export, tiny_space
from onnx import helper

from hwnas.checking.check import check_file, check_model
from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.inputs.input_sizes import InputSizes
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.references import Reference
from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.deploy.export import (
    IR_VERSION,
    OPSET,
    export_network,
    read_metadata,
    require_deployable,
    set_metadata,
)
from hwnas.errors import HwnasError, InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import create_runtime

SHAPE = (1, 9, 7)


CLASSIFYING = [param for param in spaces_to_export() if param.values[0] != "decoder"]
"""The spaces whose networks tell classes apart; generators make images."""


@pytest.fixture(scope="module", params=CLASSIFYING)
def exported(request, tmp_path_factory):
    """A network, its exported model file, and labelled samples."""
    torch.manual_seed(0)
    space = tiny_space(request.param)
    network = space.network(space.sample(np.random.default_rng(2)))
    network.auxiliary = None
    for _ in range(3):  # so that the running statistics differ from their initial values
        network.train()(torch.randn(8, *SHAPE))
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    model = export_network(network.eval(), SHAPE)
    set_metadata(model, {"params": "7", "budget_ms": "0.5"})
    path.write_bytes(model.SerializeToString())
    rng = np.random.default_rng(0)
    images = rng.standard_normal((60, *SHAPE), dtype=np.float32)
    labels = rng.integers(0, 3, 60)
    samples = Samples(60, lambda chosen: {"images": images[chosen]}, labels)
    return network, path, samples


def predict_of(network):
    def predict(feeds):
        with torch.no_grad():
            return {"logits": network(torch.from_numpy(feeds["images"])).numpy()}

    return predict


def checked(path, network=None, samples=None, **changes):
    reference = None
    if network is not None:
        reference = Reference("torch", predict_of(network))
    sizes = InputSizes("images", np.float32, (None, *SHAPE))
    settings = {"budget_ms": 1e4, "limits": CheckConfig(measure_seconds=20)}
    return check_model(
        inspect_model(path),
        create_runtime("onnxruntime-cpu", 1),
        FeedMaker((sizes,), 1, samples),
        CheckRequest(**settings | changes),
        reference=reference,
        predicted_ms=0.1,
    )


def test_an_exported_file_has_the_versions_that_runtimes_load_and_no_local_paths(exported) -> None:
    _, path, _ = exported
    model = onnx.load(path)
    assert model.ir_version == IR_VERSION
    assert [(e.domain, e.version) for e in model.opset_import] == [("", OPSET)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert read_metadata(model) == {"params": "7", "budget_ms": "0.5"}
    text = path.read_bytes()
    assert b"/hwnas/" not in text
    assert b"site-packages" not in text


def test_a_faithful_export_passes_every_gate(exported) -> None:
    network, path, samples = exported
    # The labels are random, so that no network can be above the chance level.
    limits = CheckConfig(min_accuracy=0.01, measure_seconds=20)
    document = checked(path, network, samples, limits=limits)
    assert document["verdict"] == "pass"
    statuses = statuses_of(document)
    assert statuses.pop("accuracy_above_chance") == "reported"
    assert set(statuses.values()) == {"pass"}
    assert document["accuracy"]["torch"] == document["accuracy"]["onnx"]
    assert document["model"]["params"] == 7
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("exported", ["darts", "vit"], indirect=True)
def test_negated_weights_and_a_tiny_budget_fail_their_gates(exported) -> None:
    network, path, samples = exported
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)) * (t.data_type == 1))
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(-3 * values, weights.name))
    broken = path.with_name("broken.onnx")
    broken.write_bytes(model.SerializeToString())
    limits = CheckConfig(min_accuracy=1.0, max_accuracy_drop=0.0, measure_seconds=20)
    document = checked(broken, network, samples, budget_ms=1e-9, limits=limits)
    statuses = statuses_of(document)
    assert document["verdict"] == "fail"
    for name in ("budget", "parity", "sqnr", "accuracy"):
        assert statuses[name] == "fail", name


def test_a_property_that_is_not_a_number_is_refused(exported) -> None:
    _, path, _ = exported
    model = onnx.load(path)
    set_metadata(model, {"budget_ms": "soon"})
    other = path.with_name("property.onnx")
    other.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="hwnas.budget_ms.*soon"):
        check_file(inspect_model(other), CheckRequest())


@pytest.mark.parametrize("op", ["RandomNormal", "Dropout", "Bernoulli"])
def test_random_operators_must_not_be_deployed(op: str) -> None:
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", [], [])
    opsets = [helper.make_opsetid("", OPSET)]
    with pytest.raises(HwnasError, match=op):
        require_deployable(helper.make_model(graph, opset_imports=opsets))


def test_operators_outside_the_standard_must_not_be_deployed() -> None:
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="other")], "g", [], [])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("other", 1)]
    with pytest.raises(HwnasError, match="outside the ONNX standard, got other"):
        require_deployable(helper.make_model(graph, opset_imports=opsets))


def test_another_opset_must_not_be_deployed() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    with pytest.raises(HwnasError, match="wrong opset, expected 18"):
        require_deployable(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
