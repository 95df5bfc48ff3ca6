"""Cells as programs: memory that steps share, and the same results as the operator's own steps."""

from __future__ import annotations

import pytest
import torch
from helpers.cells import DARTS_CELL, NASBENCH_CELL, REDUCTION_CELL, make_cell
from helpers.dispatched import OperatorsAreSeen
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas import kernels
from hwnas.kernels.cpu.compile_backward import compile_backward
from hwnas.kernels.cpu.compile_forward import compile_forward
from hwnas.kernels.cpu.program import ALIGNMENT, Memory, reference

pytestmark = pytest.mark.usefixtures("needs_kernels")

CELLS = {
    "normal cell": ("darts", DARTS_CELL),
    "reduction cell": ("darts", REDUCTION_CELL),
    "nasbench201 cell": ("nasbench201", NASBENCH_CELL),
}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.booleans()), max_size=60))
def test_places_in_a_workspace_do_not_overlap(requests) -> None:
    memory = Memory(1)
    used: dict[int, int] = {}
    most = 0
    for size, gives_back in requests:
        place = memory.take(size) - reference(1)
        assert place % ALIGNMENT == 0
        assert place + size <= memory.size
        assert all(place + size <= other or other + n <= place for other, n in used.items())
        used[place] = size
        most = max(most, sum(-(-n // ALIGNMENT) * ALIGNMENT for n in used.values()))
        if gives_back:
            oldest = next(iter(used))
            memory.give_back(reference(1, oldest))
            del used[oldest]
    assert most <= memory.size


def test_what_lies_elsewhere_is_not_given_back() -> None:
    memory = Memory(1)
    place = memory.take(100)
    memory.give_back(0)
    memory.give_back(reference(2, 0))
    assert memory.take(100) != place


@pytest.mark.parametrize("recompute", ["nothing", "all"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [8, 6])
@pytest.mark.parametrize("cell", CELLS)
def test_a_program_computes_what_the_operator_does(cell, channels, training, recompute) -> None:
    case = make_cell(*CELLS[cell], 2, channels, (7, 6), seed=3, with_affine=True)
    arguments = {"training": training, "momentum": 0.3, "recompute": recompute}
    found = case.evaluate("cpu", torch.float64, **arguments)
    with OperatorsAreSeen() as mode:
        expected = case.evaluate("cpu", torch.float64, **arguments)
    assert "hwnas::mixed_cell_backward" in mode.names
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-11, msg=name)


def test_programs_are_compiled_once() -> None:
    case = make_cell("darts", REDUCTION_CELL, 3, 5, (9, 6), seed=4)
    case.evaluate("cpu", torch.float32)
    before = [c.cache_info().misses for c in (compile_forward, compile_backward)]
    case.evaluate("cpu", torch.float32)
    assert [c.cache_info().misses for c in (compile_forward, compile_backward)] == before


def test_a_second_backward_pass_gives_the_same() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 8, (6, 6), seed=5)
    x = case.inputs[0].requires_grad_()
    nodes = kernels.mixed_cell(case.inputs, case.weights, case.edges, impl="cpu")
    loss = sum(node.sin().sum() for node in nodes)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_running_statistics_count_as_changed() -> None:
    """Autograd refuses a backward pass that would read the values from before."""
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=6)
    mean = case.edges[0].candidates[1].tensors["bn.running_mean"]
    scale = torch.ones(8, dtype=torch.float64, requires_grad=True)
    loss = (scale * mean).sum()
    kernels.mixed_cell(case.inputs, case.weights, case.edges, impl="cpu")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("unused", [0, 1, 2])
def test_nodes_without_a_gradient(unused) -> None:
    results = []
    for impl in ("torch", "cpu"):
        case = make_cell("darts", DARTS_CELL, 2, 6, (6, 5), seed=7)
        leaves = [x.requires_grad_() for x in (*case.inputs, case.weights)]
        nodes = kernels.mixed_cell(case.inputs, case.weights, case.edges, impl=impl)
        loss = sum(n.sin().sum() for i, n in enumerate(nodes) if i != unused)
        results.append(torch.autograd.grad(loss, leaves))
    for found, exact in zip(*results, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
