"""The profiler on a clock that counts nodes, so that every latency is exact."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.profiled import QUICK, Add, build_operator, profiled
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from hwnas.errors import InputError
from hwnas.latency_tables.measuring import speed_reference
from hwnas.latency_tables.measuring.onnx_context import operator_graph
from hwnas.latency_tables.measuring.operator_calls import COPIES, Plan, difference
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.statistics import Summary
from hwnas.latency_tables.table import LatencyTable, OpSpec
from hwnas.latency_tables.timing import RoundMedians

STEM = OpSpec("stem", 3, 8, 12, 12)
SKIP = OpSpec("skip_connect", 8, 8, 12, 12)
CONV = OpSpec("conv_3x3", 8, 8, 12, 12)
REDUCE = OpSpec("conv_3x3", 8, 16, 12, 12, 2)
POOL = OpSpec("max_pool_3x3", 8, 8, 12, 12)
ADD = OpSpec("add", 8, 8, 12, 12)
HEAD = OpSpec("head", 8, 10, 12, 12)
TOKENS = OpSpec("token_norm", 8, 8, 3, 4)
MAPS = [STEM, SKIP, CONV, REDUCE, POOL, ADD]


class CountingRuntime(OnnxRuntimeCpu):
    """Every session takes 1 ms, plus a fixed time for each node, without noise."""

    NODE_MS = {"Conv": 0.5, "Relu": 0.0625, "MaxPool": 0.25, "Add": 0.125}

    def __init__(self):
        super().__init__(threads=1)
        self.models = []

    def prepare_onnx(self, model, feeds):
        graph = onnx.load_from_string(model).graph
        self.models.append(graph)
        assert [value.name for value in graph.input] == list(feeds)
        cost_ms = 1.0 + sum(self.NODE_MS.get(node.op_type, 0.0) for node in graph.node)
        return lambda: cost_ms

    def time_block(self, call, calls):
        return call() * calls


@pytest.fixture
def counting():
    return CountingRuntime()


def structure_to_onnx(module, inputs):
    """Export the nodes of the operators without weights, since only the nodes are counted."""
    names = iter([f"in{index}" for index in range(len(inputs))])
    nodes, outputs = [], []
    node_types = {nn.ReLU: "Relu", nn.Conv2d: "Conv", nn.MaxPool2d: "MaxPool", Add: "Add"}
    for number, branch in enumerate(module.branches):
        values = [next(names) for _ in range(2 if isinstance(branch, Add) else 1)]
        layers = branch if isinstance(branch, nn.Sequential) else [branch]
        for depth, layer in enumerate(layers):
            output = f"branch{number}_{depth}"
            node_type = node_types.get(type(layer), "Identity")
            attributes = {"kernel_shape": [3, 3]} if node_type in ("Conv", "MaxPool") else {}
            if node_type == "Conv":
                values = [*values, "weight"]
            nodes.append(helper.make_node(node_type, values, [output], **attributes))
            values = [output]
        outputs.append(helper.make_tensor_value_info(values[0], TensorProto.FLOAT, [None] * 4))
    graph = helper.make_graph(
        nodes,
        "structure",
        [
            helper.make_tensor_value_info(f"in{index}", TensorProto.FLOAT, tensor.shape)
            for index, tensor in enumerate(inputs)
        ],
        outputs,
        [numpy_helper.from_array(np.zeros((1, 1, 3, 3), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def test_an_operator_has_the_time_of_its_nodes_and_a_source_also_that_of_the_session(counting):
    table = profiled(MAPS, counting, structure_to_onnx)
    costs = {spec: table.latency_ms(spec) for spec in table.specs()}
    read_a_pixel_ms = 0.25
    assert costs == pytest.approx(
        {
            STEM: 1.0 + 0.5 + read_a_pixel_ms,
            SKIP: 0.0,
            CONV: 0.5 + 0.0625,
            REDUCE: 0.5 + 0.0625,
            POOL: 0.25,
            ADD: 0.125,
        }
    )
    assert {table.measurement(spec).status for spec in table.specs()} == {"ok"}
    assert table.definitions == {"conv": "r1"}
    assert table.statistic == "p10"


def test_specs_of_one_shape_share_a_baseline(counting):
    profiled([SKIP, CONV, REDUCE, POOL], counting, structure_to_onnx)
    assert len(counting.models) == 5 + 1  # the speed reference


def test_each_group_is_timed_beside_the_speed_reference(counting):
    table = profiled([SKIP, CONV, ADD], counting, structure_to_onnx, group_size=2)
    assert table.reference is not None
    assert table.reference.name == speed_reference.NAME
    assert len(table.reference.sessions_ms) == 2
    assert min(table.reference.sessions_ms) > 0


def test_each_spec_is_measured_once_and_a_group_is_exported_once(counting):
    exports = []

    def counted(module, inputs):
        exports.append(len(inputs))
        return structure_to_onnx(module, inputs)

    table = profiled([CONV, ADD, CONV, POOL], counting, counted)
    assert exports == [4]
    assert sorted(table.specs()) == sorted([CONV, ADD, POOL])


def test_an_interrupted_profile_continues_where_it_stopped(counting, tmp_path):
    specs = [SKIP, POOL, ADD, CONV]
    partial = tmp_path / "partial.json"
    options = {"partial_path": partial, "group_size": 2}

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiled(specs, counting, structure_to_onnx, progress=interrupt, **options)
    half = LatencyTable.load(partial)
    assert len(half.specs()) == 2

    exported = []

    def counted(module, inputs):
        exported.append(len(module.branches))
        return structure_to_onnx(module, inputs)

    seen = []
    table = profiled(
        specs, counting, counted, progress=lambda done, total: seen.append((done, total)), **options
    )
    assert exported == [2]
    assert seen == [(2, 4), (4, 4)]
    assert table.missing(specs) == []
    assert LatencyTable.load(partial) == table
    assert all(table.measurement(spec) == half.measurement(spec) for spec in half.specs())
    # A complete file needs no measurement at all.
    assert profiled(specs, counting, None, **options) == table


def test_rows_measured_with_other_settings_are_not_resumed(counting, tmp_path):
    partial = tmp_path / "partial.json"
    profiled([CONV], counting, structure_to_onnx, partial_path=partial)
    before = partial.read_bytes()
    for options, expected in [
        ({"definitions": {"conv": "r2"}}, "definitions of operators"),
        ({"batch": 2}, "batch: expected 2, got 1"),
        ({"versions": {"hwnas": "9"}}, "versions"),
        ({"protocol": replace(QUICK, time_limit_s=9.0)}, "protocol of the measurement"),
    ]:
        with pytest.raises(InputError, match=expected) as caught:
            profiled([CONV], counting, structure_to_onnx, partial_path=partial, **options)
        assert str(partial) in str(caught.value)
    assert partial.read_bytes() == before


def test_a_damaged_partial_file_is_refused(counting, tmp_path):
    partial = tmp_path / "partial.json"
    partial.write_text(json.dumps({"schema": 1}))
    with pytest.raises(InputError, match="partial.json"):
        profiled([CONV], counting, structure_to_onnx, partial_path=partial)


def test_an_unknown_dtype_is_refused(counting):
    with pytest.raises(InputError, match="float32 or float16, got int8"):
        profiled([CONV], counting, structure_to_onnx, dtype="int8")


def test_the_global_random_state_is_not_changed(counting):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    profiled([CONV], counting, structure_to_onnx)
    assert torch.equal(torch.rand(4), expected)


def test_the_time_limit_is_scaled_to_the_size_of_a_group(counting, monkeypatch):
    limits = []
    real = counting.measure

    def spy(calls, protocol, **options):
        limits.append(protocol.time_limit_s)
        return real(calls, protocol, **options)

    monkeypatch.setattr(counting, "measure", spy)
    table = profiled([SKIP, POOL, CONV], counting, structure_to_onnx, group_size=2)
    assert limits == [QUICK.time_limit_s, QUICK.time_limit_s / 2]
    assert table.protocol == QUICK


def rounds(p10_ms, median_ms, p90_ms, status="ok"):
    summary = Summary(median_ms, p10_ms, p90_ms, p10_ms, p10_ms, p10_ms, 10)
    return RoundMedians((p10_ms,) * 10, summary, status, 0)


@pytest.mark.parametrize(
    "total, baseline, statistic, expected",
    [
        (rounds(4.0, 6.0, 8.0), rounds(2.0, 2.0, 2.0), "p10", (1.0, 2.0, 3.0, "ok")),
        # A negative difference is noise.
        (rounds(1.0, 1.0, 1.0), rounds(2.0, 2.0, 2.0), "p10", (0.0, 0.0, 0.0, "ok")),
        # The statistic is kept and the other quantiles are adjusted.
        (rounds(4.0, 6.0, 8.0), rounds(0.0, 4.0, 8.0), "p10", (2.0, 2.0, 2.0, "ok")),
        (rounds(4.0, 6.0, 8.0), rounds(0.0, 4.0, 8.0), "median", (1.0, 1.0, 1.0, "ok")),
        # The worse of two statuses.
        (rounds(4.0, 4.0, 4.0), rounds(2.0, 2.0, 2.0, "noisy"), "p10", (1.0, 1.0, 1.0, "noisy")),
        (
            rounds(4.0, 4.0, 4.0, "timeout"),
            rounds(2.0, 2.0, 2.0, "noisy"),
            "p10",
            (1.0, 1.0, 1.0, "timeout"),
        ),
    ],
)
def test_difference_of_quantiles(total, baseline, statistic, expected):
    plan = Plan("total", "baseline", copies=2)
    found = difference(plan, {"total": total, "baseline": baseline}, statistic)
    assert (found.p10_ms, found.median_ms, found.p90_ms, found.status) == expected


@cache
def exported(spec, to_onnx):
    module, shapes, _ = build_operator(spec)
    inputs = tuple(torch.zeros(2, *shape) for shape in shapes)
    return module.eval(), onnx.load_from_string(to_onnx(module.eval(), inputs)), shapes


def behind_context(x, weight, bias):
    x = torch.from_numpy(x)
    return (nn.functional.conv2d(x, weight, bias) if x.dim() == 4 else x @ weight + bias).relu()


@pytest.mark.parametrize("spec", [CONV, REDUCE, ADD, HEAD, SKIP, TOKENS], ids=str)
def test_a_context_graph_computes_context_then_operator(spec, to_onnx):
    module, operator, shapes = exported(spec, to_onnx)
    rng = np.random.default_rng(1)
    graph = operator_graph(operator, shapes, copies=3, batch=2, dtype="float32", rng=rng)
    session = onnxruntime.InferenceSession(graph.model, providers=["CPUExecutionProvider"])
    outputs = iter(session.run(None, graph.feeds))
    weights = {
        value.name: torch.from_numpy(numpy_helper.to_array(value).copy())
        for value in onnx.load_from_string(graph.model).graph.initializer
    }
    for copy in range(3):
        names = [f"copy{copy}_input{index}" for index in range(len(shapes))]
        contexts = [
            behind_context(graph.feeds[name], weights[f"{name}_weight"], weights[f"{name}_bias"])
            for name in names
        ]
        with torch.inference_mode():
            results = [module(*contexts), *contexts[1:]]
        for result in results:
            read = {4: (..., slice(1), slice(1)), 3: (slice(None), slice(1), slice(1))}
            pixel = result[read.get(result.dim(), ...)]
            np.testing.assert_allclose(next(outputs), pixel.numpy(), rtol=1e-4, atol=1e-4)
    assert next(outputs, None) is None


@pytest.mark.parametrize("spec", [CONV, POOL, ADD], ids=str)
def test_no_optimisation_merges_or_drops_a_branch(spec, to_onnx, tmp_path):
    _, operator, shapes = exported(spec, to_onnx)
    rng = np.random.default_rng(1)
    graph = operator_graph(operator, shapes, copies=COPIES, batch=2, dtype="float32", rng=rng)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    # The layout level renames nodes for the processor at hand; the one before merges and drops.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    kept = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    convolutions = kept["Conv"] + kept["FusedConv"]
    assert convolutions == COPIES * (len(shapes) + (spec == CONV))
    assert kept["MaxPool"] == COPIES * (len(shapes) + (spec == POOL))
    assert kept["Add"] == COPIES * (spec == ADD)


def test_groups_that_are_measured_at_the_same_time_give_the_same_table(counting) -> None:
    alone = profiled([SKIP, POOL, CONV], CountingRuntime(), structure_to_onnx, group_size=1)
    counting.parallel = 2
    done = []
    together = profiled(
        [SKIP, POOL, CONV],
        counting,
        structure_to_onnx,
        group_size=1,
        progress=lambda measured, total: done.append(measured),
    )
    assert together.diff(alone) == alone.diff(alone)
    assert done == [0, 1, 2, 3]
