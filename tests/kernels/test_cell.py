"""Cells that are prepared once: what may change between calls, and what is refused."""

from __future__ import annotations

import pytest
import torch
from helpers.cells import DARTS_CELL, make_cell
from torch._subclasses.fake_tensor import FakeTensorMode

from hwnas import kernels
from hwnas.kernels import Cell

pytestmark = pytest.mark.usefixtures("needs_kernels")


def test_active_candidates_of_a_call() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 5, (6, 7), seed=1)
    cell = Cell(2, case.edges)
    for active in ((3,), (1, 6), (0,)):
        edges = [edge._replace(active=active) for edge in case.edges]
        expected = kernels.mixed_cell(case.inputs, case.weights, edges, impl="cpu")
        found = cell(case.inputs, case.weights, active=[active] * len(edges), impl="cpu")
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


def test_more_sets_of_active_candidates_than_are_kept() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 4, (5, 5), seed=2)
    cell = Cell(1, case.edges)
    sets = [(i, j, k) for i in range(8) for j in range(i) for k in range(j)]
    for active in sets[:70]:
        (node,) = cell(case.inputs, case.weights, active=[active], impl="cpu")
        edges = [case.edges[0]._replace(active=active)]
        (expected,) = kernels.mixed_cell(case.inputs, case.weights, edges, impl="torch")
        torch.testing.assert_close(node, expected)


def test_sizes_and_values_may_change() -> None:
    small = make_cell("darts", DARTS_CELL, 2, 6, (6, 5), seed=3)
    large = make_cell("darts", DARTS_CELL, 3, 6, (9, 8), seed=4)
    cell = Cell(2, small.edges)
    for case in (small, large, small):
        found = cell(case.inputs, case.weights, impl="cpu")
        expected = kernels.mixed_cell(case.inputs, case.weights, small.edges, impl="torch")
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        for tensor in small.edges[0].candidates[4].tensors.values():
            if tensor.is_floating_point():
                tensor.data.mul_(1.5)


def test_a_type_that_was_changed_in_place() -> None:
    case = make_cell("darts", ((0, 1, 2),), 2, 6, (6, 5), seed=5)
    cell = Cell(1, case.edges)
    cell(case.inputs, case.weights, impl="cpu")
    for candidate in case.edges[0].candidates:
        for tensor in candidate.tensors.values():
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
    x, weights = case.inputs[0].float(), case.weights.float()
    (found,) = cell([x], weights, impl="cpu")
    (expected,) = kernels.mixed_cell([x], weights, case.edges, impl="torch")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["pointwise2.weight", "bn2.running_var"])
def test_a_shape_that_was_changed_in_place_is_refused(name) -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 6, (6, 5), seed=6)
    cell = Cell(1, case.edges)
    cell(case.inputs, case.weights, impl="cpu")
    tensor = case.edges[0].candidates[4].tensors[name]
    tensor.data = tensor.data[:3].clone()
    with pytest.raises(RuntimeError, match="cannot be used: .*6 channels"):
        cell(case.inputs, case.weights, impl="cpu")


def test_wrong_arguments_of_a_call_are_refused() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 4, (6, 6), seed=7)
    cell = Cell(2, case.edges)
    with pytest.raises(ValueError, match="the cell has 2 inputs, got 1"):
        cell(case.inputs[:1], case.weights)
    with pytest.raises(ValueError, match="active must list different indices below 8"):
        cell(case.inputs, case.weights, active=[(9,)] * len(case.edges))
    with pytest.raises(ValueError, match="must have shape"):
        cell(case.inputs, case.weights[:2])


def test_fake_tensors_need_no_mode() -> None:
    """They have no memory, so the kernels must not be given their addresses."""
    case = make_cell("darts", DARTS_CELL, 2, 16, (8, 7), seed=1)
    fake = FakeTensorMode().from_tensor
    edges = [
        edge._replace(
            candidates=[
                c._replace(tensors={name: fake(t) for name, t in c.tensors.items()})
                for c in edge.candidates
            ]
        )
        for edge in case.edges
    ]
    nodes = kernels.mixed_cell([fake(x) for x in case.inputs], fake(case.weights), edges)
    assert {tuple(node.shape) for node in nodes} == {(2, 16, 8, 7)}


@pytest.mark.filterwarnings("ignore:mixed operators run in plain PyTorch")
def test_a_negated_view_is_read_as_what_it_stands_for() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 16, (8, 7), seed=1)
    x, weights, candidates = case.inputs[0].detach(), case.weights[0], case.edges[0].candidates
    found = kernels.mixed_op(torch._neg_view(x), weights, candidates)
    torch.testing.assert_close(found, kernels.mixed_op(-x, weights, candidates))
