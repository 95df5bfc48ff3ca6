"""ncnn: batches, what it cannot run, and a model that the check passes on it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from helpers.model_checks import quickly_checked
from helpers.small_models import model_of, residual_net, saved
from onnx import helper

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.runtimes.ncnn import NcnnCpu


@pytest.fixture
def ncnn() -> NcnnCpu:
    runtime = NcnnCpu(1)
    try:
        runtime.require()
    except RuntimeMissingError as error:
        pytest.skip(str(error))
    return runtime


@pytest.mark.slow
def test_every_sample_of_a_batch_is_computed(ncnn, rng) -> None:
    model = residual_net().SerializeToString()
    reference = OnnxRuntimeCpu(1)
    name = next(value.name for value in reference.session(model).get_inputs())
    shape = list(reference.session(model).get_inputs()[0].shape[1:])
    inputs = {name: rng.standard_normal((3, *shape), dtype=np.float32)}
    (expected,) = reference.infer(model)(inputs).values()
    (found,) = ncnn.infer(model)(inputs).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_check_judges_what_ncnn_computes(ncnn, tmp_path) -> None:
    path = saved(residual_net(), tmp_path / "model.onnx")
    document = quickly_checked(path, runtime_name="ncnn-cpu")
    statuses = {gate["name"]: gate["status"] for gate in document["gates"]}
    assert document["verdict"] == "pass"
    assert statuses["parity: onnxruntime-cpu"] == "pass"


@pytest.mark.slow
def test_an_operator_that_ncnn_lacks_is_refused_in_one_line(ncnn) -> None:
    nodes = [helper.make_node("Det", ["x"], ["y"])]
    model = model_of(nodes, {"x": (1, 4, 4)}, {"y": (1,)}).SerializeToString()
    with pytest.raises(InputError) as caught:
        ncnn.prepare_onnx(model, {"x": np.zeros((1, 4, 4), np.float32)})
    assert str(caught.value).startswith("ncnn-cpu: ")
    assert len(str(caught.value).splitlines()) == 1


def test_inputs_that_are_no_floats_are_refused_before_anything_is_converted(ncnn) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model = model_of(nodes, {"x": (1, 4)}, {"y": (1, 4)}).SerializeToString()
    with pytest.raises(InputError, match="expected float32 inputs"):
        ncnn.prepare_onnx(model, {"x": np.zeros((1, 4), np.int64)})


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(
        RuntimeMissingError, match=r"ncnn is not installed; pip install 'hwnas\[ncnn"
    ):
        NcnnCpu(1).require()
