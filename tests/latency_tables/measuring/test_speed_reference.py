"""The speed reference: the same network on every runtime, always with the same weights."""

from __future__ import annotations

import numpy as np
import torch

from hwnas.latency_tables.measuring import speed_reference
from hwnas.latency_tables.runtimes import create_runtime


def test_reference_is_the_same_file_every_time() -> None:
    first, second = speed_reference.reference_graph(), speed_reference.reference_graph()
    assert first.model == second.model
    assert np.array_equal(first.feeds["x"], second.feeds["x"])


def test_onnx_model_and_module_compute_the_same() -> None:
    graph = speed_reference.reference_graph()
    infer = create_runtime("onnxruntime-cpu", 1).infer(graph.model)
    (found,) = infer(graph.feeds).values()
    module = speed_reference._module()
    expected = module(torch.from_numpy(graph.feeds["x"])).numpy()
    assert found.shape == (1, 10)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_reference_runs_on_runtimes_of_models_and_of_modules() -> None:
    for name in ("onnxruntime-cpu", "torch-cpu"):
        call = speed_reference.prepare_reference(create_runtime(name, 1))
        assert call is not None
        call()


def test_reference_is_not_compiled() -> None:
    runtime = create_runtime("torch-compile-cpu", 1)
    assert speed_reference.compiles_modules(runtime)
    assert speed_reference.prepare_reference(runtime) is None
