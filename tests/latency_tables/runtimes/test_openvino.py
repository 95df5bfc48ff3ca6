"""OpenVINO runs models with the requested settings, or raises an error."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.runtime_models import equal_pools, subtraction
from helpers.small_models import SIDE, model_of, residual_net
from onnx import helper

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.measuring.serving import serve
from hwnas.latency_tables.runtimes.onnx import OnnxRuntimeCpu
from hwnas.latency_tables.runtimes.openvino import OpenVinoCpu

openvino = pytest.importorskip("openvino", reason="the extra `openvino` is not installed")


def images(batch, seed=0):
    generator = np.random.default_rng(seed)
    return {"x": generator.standard_normal((batch, 3, SIDE, SIDE), dtype=np.float32)}


def test_a_model_is_compiled_with_the_stated_properties():
    runtime = OpenVinoCpu(1)
    compiled = runtime._compile(runtime._read(residual_net().SerializeToString()))
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert runtime.profile(dtype="float32", batch=1).options == runtime.options()


def test_more_threads_than_the_machine_has_are_refused():
    threads = (os.cpu_count() or 1) + 1000
    feeds = {name: np.ones((1, 2), np.float32) for name in "ab"}
    with pytest.raises(RuntimeMissingError, match="did not apply the settings") as caught:
        OpenVinoCpu(threads).prepare_onnx(subtraction(), feeds)
    assert f"'INFERENCE_NUM_THREADS': '{threads}'" in str(caught.value)


def test_a_precision_that_is_not_taken_is_refused(monkeypatch):
    """OpenVINO reports the precision that it uses, or refuses one that it does not know."""
    stated = OpenVinoCpu.options
    monkeypatch.setattr(
        OpenVinoCpu, "options", lambda self: stated(self) | {"INFERENCE_PRECISION_HINT": "f64"}
    )
    with pytest.raises((InputError, RuntimeMissingError), match="openvino-cpu: OpenVINO"):
        OpenVinoCpu(1).infer(subtraction())


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'hwnas\[openvino\]'") as caught:
        OpenVinoCpu(1).require()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("batch", [1, 5])
def test_float32_results_at_any_batch(batch):
    model = residual_net().SerializeToString()
    expected = OnnxRuntimeCpu(1).infer_unoptimised(model)(images(batch))
    found = OpenVinoCpu(1).infer(model)(images(batch))
    assert list(found) == ["y"]
    # bfloat16, the plugin's default on many processors, has errors of some thousandths.
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-5)


def test_outputs_have_their_names_and_order():
    nodes = [
        helper.make_node("Relu", ["x"], ["second"]),
        helper.make_node("Neg", ["x"], ["first"]),
    ]
    model = model_of(nodes, {"x": ("n", 2)}, {"second": ("n", 2), "first": ("n", 2)})
    found = OpenVinoCpu(1).infer(model.SerializeToString())({"x": np.float32([[1, -2]])})
    assert list(found) == ["second", "first"]
    np.testing.assert_array_equal(found["second"], [[1, 0]])
    np.testing.assert_array_equal(found["first"], [[-1, 2]])


def test_the_name_of_a_file_does_not_decide_how_it_is_read(tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(subtraction())
    feeds = {"a": np.float32([[3, 4]]), "b": np.float32([[1, 1]])}
    np.testing.assert_array_equal(OpenVinoCpu(1).infer(path)(feeds)["y"], [[2, 3]])


def test_every_thread_has_its_own_request():
    infer = OpenVinoCpu(1).infer(residual_net().SerializeToString())
    alone = [infer(images(2, seed))["y"] for seed in range(24)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda seed: infer(images(2, seed))["y"], range(24)))
    np.testing.assert_array_equal(together, alone)


def test_one_session_serves_several_threads():
    found = serve(
        OpenVinoCpu(1), residual_net().SerializeToString(), images(1), threads=2, seconds=0.3
    )
    assert found.errors == 0
    assert found.requests >= 2


def test_placement_counts_nodes_that_compute():
    placed = OpenVinoCpu(1).placement(subtraction())
    assert placed == {"CPU": {"Subtract": 1}}


@pytest.mark.parametrize("model", [b"", b"not a model", residual_net().SerializeToString()[:40]])
def test_a_file_that_is_no_model_is_refused_in_one_line(model):
    with pytest.raises(
        InputError, match="OpenVINO cannot load the model: Unable to read"
    ) as caught:
        OpenVinoCpu(1).infer(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shapes, expected",
    [
        ({"a": (1, 2)}, r"feeds do not match.*\['a', 'b'\], got \['a'\]"),
        ({"a": (1, 3), "b": (1, 2)}, "OpenVINO cannot run the model"),
        ({"a": (1, 2, 2), "b": (1, 2)}, "OpenVINO cannot run the model"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(shapes, expected):
    feeds = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=expected):
        OpenVinoCpu(1).prepare_onnx(subtraction(), feeds)


def test_common_subexpressions_are_eliminated():
    """As the rule `once` assumes."""
    runtime = OpenVinoCpu(1)
    run = runtime._compile(runtime._read(equal_pools())).get_runtime_model().get_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in run]
    assert kinds.count("Pooling") == 1
