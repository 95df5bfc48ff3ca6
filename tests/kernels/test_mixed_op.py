"""The public functions: schema, compilation, autocast, strides, fallback, modes, wrong inputs."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers.cells import DARTS_CELL, make_cell
from torch.library import opcheck

from hwnas import kernels
from hwnas.kernels import choice, operator
from hwnas.kernels.cpu.program import Program
from hwnas.kernels.cpu.structures import STEPS, ConvolutionEntry, StepEntry
from hwnas.kernels.plan import CellPlan, tensors_of

EDGE = ((0, 1, 1),)


OPCHECKS = [
    (structure, recompute)
    for structure in (EDGE, ((0, 1, 2),), DARTS_CELL)
    for recompute in ("nothing", "first", "all")
]


@pytest.mark.parametrize(
    "structure, recompute",
    [
        pytest.param(*case, marks=pytest.mark.slow if case[0] is DARTS_CELL else ())
        for case in OPCHECKS
    ],
)
def test_opcheck(structure, recompute, needs_kernels) -> None:
    case = make_cell("darts", structure, 2, 6, (7, 8), seed=1)
    parameters = [c.tensors[n].detach().requires_grad_() for c, n in tensors_of(case.edges)[0]]
    inputs = [x.requires_grad_() for x in case.inputs]
    description = CellPlan.describe(len(inputs), case.edges)
    arguments = (inputs, case.weights.requires_grad_(), parameters, [], description, "cpu")
    opcheck(operator.mixed_cell_op, (*arguments, recompute, True))


def test_compiles_as_one_graph(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 8, (8, 8), seed=2)
    candidates = case.edges[0].candidates

    def around(x, weights):
        return kernels.mixed_op(2 * x, weights.softmax(0), candidates, impl="cpu").relu()

    results = []
    for function in (around, torch.compile(around, fullgraph=True, backend="aot_eager")):
        x, weights = case.inputs[0].clone().requires_grad_(), case.weights[0].clone()
        weights.requires_grad_()
        y = function(x, weights)
        y.sum().backward()
        results.append((y.detach(), x.grad, weights.grad))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


@pytest.mark.slow
def test_compiles_for_any_batch(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 6, 8, (8, 8), seed=2)
    candidates, weights = case.edges[0].candidates, case.weights[0]

    def around(x):
        return kernels.mixed_op(x, weights, candidates, impl="cpu").relu()

    compiled = torch.compile(around, fullgraph=True, backend="aot_eager", dynamic=True)
    for images in (6, 4):
        x = case.inputs[0][:images]
        torch.testing.assert_close(compiled(x), around(x))


def test_any_strides_in_channels_last_out(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 8, (6, 6), seed=3)
    x, candidates, weights = case.inputs[0], case.edges[0].candidates, case.weights[0]
    expected = kernels.mixed_op(x, weights, candidates, impl="torch")
    wide = torch.stack((x, x), dim=-1)[..., 0]
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for strided in (wide, turned, x.contiguous(memory_format=torch.channels_last)):
        out = kernels.mixed_op(strided, weights, candidates, impl="cpu")
        assert out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast_compute_in_float32(dtype, needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 8, (6, 6), seed=4)
    candidates = [
        c._replace(tensors={k: v.float() if v.is_floating_point() else v
                            for k, v in c.tensors.items()})
        for c in case.edges[0].candidates
    ]  # fmt: skip
    x, weights = case.inputs[0].to(dtype), case.weights[0].float()
    exact = kernels.mixed_op(x.float(), weights, candidates, impl="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = kernels.mixed_op(x.requires_grad_(), weights, candidates, impl="cpu")
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact, rtol=1e-2, atol=1e-2)
    out.sum().backward()
    assert x.grad.dtype == dtype
    assert bool(torch.isfinite(x.grad).all())
    for candidate in candidates:
        for tensor in candidate.tensors.values():
            assert tensor.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_and_evaluation(training, needs_kernels) -> None:
    case = make_cell("darts", DARTS_CELL, 3, 5, (6, 7), seed=5, with_affine=True)
    exact = case.evaluate("torch", torch.float64, training=training, momentum=0.3)
    found = case.evaluate("cpu", torch.float64, training=training, momentum=0.3)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("active", [(1,), (3,), (0,), (4, 7), ()])
def test_active_candidates_only(active, needs_kernels) -> None:
    case = make_cell("darts", DARTS_CELL, 2, 5, (6, 7), seed=6, active=active)
    exact = case.evaluate("torch", torch.float64)
    found = case.evaluate("cpu", torch.float64)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_gradients_that_are_not_needed_are_not_computed(needs_kernels, monkeypatch) -> None:
    case = make_cell("darts", EDGE, 2, 8, (6, 6), seed=7)
    seen: list[Program] = []
    inner = Program.run
    monkeypatch.setattr(
        Program, "run", lambda self, *rest: (seen.append(self), inner(self, *rest))[1]
    )
    weights = case.weights[0].requires_grad_()
    candidates = [
        c._replace(tensors={k: v.detach() for k, v in c.tensors.items()})
        for c in case.edges[0].candidates
    ]
    kernels.mixed_op(case.inputs[0], weights, candidates, impl="cpu").sum().backward()
    assert weights.grad is not None
    assert len(seen) == 2, "one call for each pass"
    steps = [s for s in seen[1].entries(StepEntry) if STEPS[s.kind] == "convolve_backward"]
    assert len(steps) == 2, "one for the second stages and one for the state"
    convolutions = seen[1].entries(ConvolutionEntry)
    assert len(convolutions) == 6
    assert not any(c.first_gradient or c.second_gradient for c in convolutions)
    assert steps[0].d_values is not None
    assert steps[1].d_values is None, "the gradient of the input was computed"


def test_gradients_agree_with_finite_differences(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 3, (5, 4), seed=8)
    candidates = case.edges[0].candidates
    x, weights = case.inputs[0].requires_grad_(), case.weights[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, w: kernels.mixed_op(a, w, candidates, impl="cpu"), (x, weights)
    )


def test_recomputing_keeps_less(needs_kernels) -> None:
    case = make_cell("darts", DARTS_CELL, 2, 16, (8, 8), seed=9)
    parameters = [c.tensors[n].detach() for c, n in tensors_of(case.edges)[0]]
    kept = []
    for recompute in ("nothing", "first", "all"):
        outputs = operator.mixed_cell_op(
            case.inputs, case.weights, parameters, [],
            CellPlan.describe(2, case.edges), "cpu", recompute, True,
        )  # fmt: skip
        kept.append(sum(t.numel() for t in outputs))
    assert kept[0] > kept[1] > kept[2]


def test_auto_falls_back_to_pytorch_and_warns_once(monkeypatch) -> None:
    case = make_cell("darts", EDGE, 2, 4, (6, 6), seed=10)
    monkeypatch.setattr(choice, "_loading_error", lambda *arguments: "no kernels today")
    choice._warn_once.cache_clear()
    x, candidates, weights = case.inputs[0], case.edges[0].candidates, case.weights[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            out = kernels.mixed_op(x, weights, candidates)
    assert ["no kernels today" in str(w.message) for w in caught] == [True]
    torch.testing.assert_close(out, kernels.mixed_op(x, weights, candidates, impl="torch"))
    with pytest.raises(RuntimeError, match="no kernels today"):
        kernels.mixed_op(x, weights, candidates, impl="cpu")


@pytest.mark.parametrize("where", ["input", "weight"])
def test_nan_propagates(where, needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 8, (6, 6), seed=14)
    candidates, x = case.edges[0].candidates, case.inputs[0].clone()
    if where == "input":
        x[0, 0, 3, 3] = torch.nan
    else:
        candidates[4].tensors["depthwise1.weight"].data[0] = torch.nan
    for active in ((1,), (2,), (4,), (6,)) if where == "input" else ((4,),):
        for impl in ("torch", "cpu"):
            out = kernels.mixed_op(x, case.weights[0], candidates, impl=impl, active=active)
            assert bool(torch.isnan(out).any()), (impl, active)


def test_a_model_in_half_precision_trains(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 2, 8, (6, 6), seed=15)
    candidates = [
        c._replace(tensors={k: v.detach().bfloat16() for k, v in c.tensors.items()})
        for c in case.edges[0].candidates
    ]
    x, weights = case.inputs[0].bfloat16(), case.weights[0].bfloat16().requires_grad_()
    kernels.mixed_op(x, weights, candidates, impl="cpu").sum().backward()
    assert weights.grad is not None
    assert bool(torch.isfinite(weights.grad).all())
    assert candidates[1].tensors["bn.running_mean"].any()


def test_mixing_weights_of_any_strides(needs_kernels) -> None:
    case = make_cell("darts", DARTS_CELL, 2, 4, (6, 6), seed=16)
    results = []
    for weights in (case.weights.clone(), case.weights.t().contiguous().t()):
        weights.requires_grad_()
        nodes = kernels.mixed_cell(case.inputs, weights, case.edges, impl="cpu")
        results.append(torch.autograd.grad(sum(n.sin().sum() for n in nodes), weights)[0])
    torch.testing.assert_close(*results)


def test_wrong_sizes_and_shapes_are_refused(needs_kernels) -> None:
    case = make_cell("darts", ((0, 2, 1), (1, 2, 1)), 2, 8, (6, 6), seed=17)
    small = [case.inputs[0], case.inputs[1][:, :, ::2, ::2]]
    with pytest.raises(ValueError, match="lead to node 2 produce different sizes"):
        kernels.mixed_cell(small, case.weights, case.edges, impl="cpu")
    x, candidates, weights = case.inputs[0], case.edges[0].candidates, case.weights[0]
    for active in ((4, 4), (-1,), (8,)):
        with pytest.raises(ValueError, match="active"):
            kernels.mixed_op(x, weights, candidates, impl="cpu", active=active)
    wide = dict(candidates[4].tensors)
    wide["pointwise2.weight"] = torch.zeros(16, 8, 1, 1, dtype=torch.float64)
    candidates[4] = candidates[4]._replace(tensors=wide)
    with pytest.raises(RuntimeError, match="pointwise2.weight is"):
        kernels.mixed_op(x, weights, candidates, impl="cpu")
    for empty in (x[:0], x[..., :0]):
        with pytest.raises(RuntimeError, match="empty"):
            kernels.mixed_op(empty, weights, candidates, impl="cpu")


def test_one_value_a_channel_is_refused(needs_kernels) -> None:
    case = make_cell("darts", EDGE, 1, 4, (1, 1), seed=11)
    with pytest.raises(ValueError, match="more than one value"):
        kernels.mixed_op(case.inputs[0], case.weights[0], case.edges[0].candidates, impl="cpu")


@pytest.mark.parametrize(
    "edges, message",
    [
        pytest.param([], "numbered from 1", id="no edges"),
        pytest.param([(0, 2, 1)], "numbered from 1", id="a gap"),
        pytest.param([(1, 1, 1)], "from 1 to 1", id="a loop"),
        pytest.param([(2, 1, 1)], "from 2 to 1", id="backwards"),
    ],
)
def test_edges_that_do_not_form_a_cell_are_refused(edges, message) -> None:
    case = make_cell("darts", EDGE, 2, 4, (6, 6), seed=12)
    candidates = case.edges[0].candidates
    listed = [kernels.Edge(source, target, candidates, stride) for source, target, stride in edges]
    with pytest.raises(ValueError, match=message):
        kernels.mixed_cell(case.inputs, torch.rand(len(edges), 8), listed)
