"""Tests of programs of the Triton kernels; they are run like those in `triton_cases.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers.candidates import candidates_of, flat
from helpers.captured import capture
from helpers.triton_cases import (
    DEVICE,
    ON_GPU,
    _seed,  # noqa: F401 - an autouse fixture
)
from helpers.waits import Watch
from torch import Tensor

from hwnas.kernels.cell import Selection
from hwnas.kernels.function import CellCall, run_cell
from hwnas.kernels.held import held_tensors, separate_parameters
from hwnas.kernels.operator import mixed_cell_op, update_running_statistics
from hwnas.kernels.plan import CellPlan, Edge
from hwnas.kernels.triton import cell as programs
from hwnas.kernels.triton.program import Program

Structure = Sequence[tuple[int, int, int]]
"""Source, target and stride of each edge."""

TWO_NODES = [(0, 2, 1), (1, 2, 1), (2, 3, 1)]


def small_edges(space: str, structure: Structure, is_flat: bool) -> list[Edge]:
    """Edges of 12 channels and 3x4 pixels; if flat, with vectors of several tensors."""
    edges = [Edge(s, t, candidates_of(space, 12, (3, 4), r)[1], r) for s, t, r in structure]
    for edge in edges:
        for candidate in edge.candidates:
            moved = {k: v.detach().to(DEVICE) for k, v in candidate.tensors.items()}
            candidate.tensors.update(moved)
    return [e._replace(candidates=flat(e.candidates)) for e in edges] if is_flat else edges


@pytest.mark.parametrize(
    "space,structure,recompute,is_flat,active",
    [
        ("nasbench201", [(0, 1, 1)], "nothing", True, [None]),
        ("nasbench201", [(0, 2, 1), (1, 2, 1)], "nothing", True, [(0,), (2,)]),
        pytest.param("nasbench201", TWO_NODES, "first", False, [None] * 3, marks=pytest.mark.slow),
        pytest.param("nasbench201", TWO_NODES, "all", True, [(1, 3)] * 3, marks=pytest.mark.slow),
        pytest.param("darts", [(0, 1, 1)], "nothing", True, [None], marks=pytest.mark.slow),
    ],
)
def test_programs_compute_what_the_operator_does(
    space, structure, recompute, is_flat, active
) -> None:
    """Nodes, gradients and running statistics, bit by bit; the second time with other values.

    Then all inputs are the same tensor, and some gradients are not needed.
    """
    count = min(target for _, target, _ in structure)
    edges = small_edges(space, structure, is_flat)
    edges = [e._replace(active=a) for e, a in zip(edges, active, strict=True)]
    selection = Selection(count, edges)
    plan = CellPlan.of(selection.description)
    assert programs.suits(plan)
    parameters = selection.parameters.tensors
    for again in (False, True):
        x = [torch.randn(2, 12, 3, 4, device=DEVICE).requires_grad_() for _ in range(count)]
        inputs = [x[0]] * count if again else x
        weights = torch.rand(len(edges), len(edges[0].candidates), device=DEVICE).requires_grad_()
        for i, parameter in enumerate(parameters):
            parameter.data.normal_().mul_(0.3)
            parameter.requires_grad_(not again or i % 2 == 0)
        learned = [p for p in parameters if p.requires_grad]
        gradients = [torch.randn_like(x[0]) for _ in range(plan.nodes)]
        results = []
        for is_program in (True, False):
            _, held = held_tensors(edges)
            held.tensors = running = [r.clone() for r in held.tensors]
            if is_program:
                call = CellCall(
                    selection.description, True, 0.1, recompute, "exact",
                    selection.parameters.places, held,
                )  # fmt: skip
                nodes = list(run_cell(programs, call, inputs, weights, parameters))
            else:
                found = mixed_cell_op(
                    inputs, weights, separate_parameters(edges), [], selection.description,
                    "triton", recompute, True,
                )  # fmt: skip
                nodes, tables = found[: plan.nodes], found[plan.nodes :][: len(plan.groups)]
                counts = selection.counts(inputs)
                rows = held.separate()
                update_running_statistics(rows, tables, selection.description, counts, 0.1)
            leaves = [*dict.fromkeys(inputs), weights, *learned]
            results.append([*nodes, *torch.autograd.grad(nodes, leaves, gradients), *running])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class PreparedCell:
    """A cell that programs compute, its tensors, and the gradients of its nodes.

    Args:
        space: of the candidates.
        structure: of the cell.
        is_flat: whether its parameters and running statistics are vectors of several.
    """

    def __init__(self, space: str, structure: Structure, is_flat: bool) -> None:
        self.inputs = min(target for _, target, _ in structure)
        edges = small_edges(space, structure, is_flat)
        selection = Selection(self.inputs, edges)
        self.call = CellCall(
            selection.description, True, 0.1, "nothing", "exact", selection.parameters.places,
            selection.running,
        )  # fmt: skip
        plan = CellPlan.of(selection.description)
        assert programs.suits(plan)
        self.running = selection.running.tensors
        x = [torch.randn(2, 12, 3, 4, device=DEVICE) for _ in range(self.inputs)]
        mixing = torch.rand(len(edges), len(edges[0].candidates), device=DEVICE)
        parameters = [p.detach() for p in selection.parameters.tensors]
        self.leaves = [t.requires_grad_() for t in (*x, mixing, *parameters)]
        self.gradients = [torch.randn_like(x[0]) for _ in range(plan.nodes)]

    def evaluate(self) -> list[Tensor]:
        """The nodes, and the gradients of all tensors; running statistics change."""
        x, (mixing, *parameters) = self.leaves[: self.inputs], self.leaves[self.inputs :]
        nodes = run_cell(programs, self.call, x, mixing, parameters)
        return [*nodes, *torch.autograd.grad(nodes, self.leaves, self.gradients)]


@pytest.mark.parametrize("is_flat", [True, False])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_a_warm_program_waits_for_nothing(space, is_flat, monkeypatch) -> None:
    """Both passes with their running statistics; the launches themselves need a GPU."""
    ran: list[int] = []
    if not ON_GPU:
        monkeypatch.setattr(Program, "run", lambda self, *given: ran.append(len(self.steps)))
    cell = PreparedCell(space, TWO_NODES, is_flat)
    for _ in range(2):
        ran.clear()
        with Watch() as watch:
            cell.evaluate()
    assert len(ran) == (0 if ON_GPU else 2)
    assert watch.found == {}


@pytest.mark.parametrize("space", [pytest.param("darts", marks=pytest.mark.slow), "nasbench201"])
def test_a_captured_program_follows_new_values(space) -> None:
    """Nodes, gradients and running statistics, as those of a new evaluation."""
    cell = PreparedCell(space, [(0, 1, 1)], is_flat=True)
    cell.evaluate()  # records the programs
    with capture() as captured:
        found = cell.evaluate()
    before = [t.clone() for t in (*found, *cell.running)]
    for tensor in (*cell.leaves, *cell.gradients):
        tensor.data.normal_()
    start = [t.clone() for t in cell.running]
    with torch.no_grad():
        captured.replay()
    replayed = [t.clone() for t in (*found, *cell.running)]
    for tensor, value in zip(cell.running, start, strict=True):
        tensor.copy_(value)
    anew = [*cell.evaluate(), *cell.running]
    assert all(torch.equal(a, b) for a, b in zip(replayed, anew, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, anew, strict=True))
