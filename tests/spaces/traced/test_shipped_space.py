"""The space of `mbconv_slice`, written with `hwnas.nn`, is the built-in one."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch

from hwnas.deploy.export import to_onnx
from hwnas.latency_tables.table import OpSpec
from hwnas.pipeline.profile import operator_module
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.traced.space import TracedSpace, space_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("own_network")


@pytest.fixture
def own(benchmark) -> TracedSpace:
    return space_of(benchmark.Network(), torch.zeros(1, 1, 28, 28))


@pytest.fixture
def shipped() -> SearchSpace:
    sizes = {"input_channels": 1, "height": 28, "width": 28}
    return build_space("mbconv", {"layout": "small", **sizes})


def test_both_have_the_same_architectures_of_the_same_sizes(benchmark, own, shipped) -> None:
    assert own.size() == shipped.size()
    for mine, theirs in benchmark.same_architectures(own, shipped, 20):
        assert own.params_and_macs(mine) == shipped.params_and_macs(theirs)


def test_the_model_is_written_in_under_40_lines(benchmark) -> None:
    parts = (benchmark.conv, benchmark.Block, benchmark.Network)
    assert sum(len(inspect.getsource(part).splitlines()) for part in parts) < 40


def nodes(space: SearchSpace, spec: OpSpec) -> list[str]:
    """What a runtime computes for an operator: types and constant shapes of the graph's nodes."""
    module, shapes, _ = operator_module(spec, space)
    torch.manual_seed(0)
    model = onnx.load_from_string(to_onnx(module, [torch.randn(1, *s) for s in shapes]))
    sizes = {value.name: list(value.dims) for value in model.graph.initializer}
    return [f"{n.op_type} {[sizes[i] for i in n.input if i in sizes]}" for n in model.graph.node]


def test_the_same_graphs_are_measured_for_both(own, shipped) -> None:
    """So their predicted latencies differ by what two measurements of one graph differ by."""
    rng = np.random.default_rng(0)
    compared = {(int(row), int(rng.integers(6))) for row in (0, 7)}
    for row, option in sorted(compared):
        name = own.choices[row].options[option]
        assert name == shipped.choices[row].options[option]
        (mine,), (theirs,) = own.operators(row, option), shipped.operators(row, option)
        assert nodes(own, mine) == nodes(shipped, theirs), name
