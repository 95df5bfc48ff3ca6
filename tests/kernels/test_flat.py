"""Candidates whose tensors are flat give the cell of candidates with separate tensors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers.candidates import flat
from helpers.cells import DARTS_CELL, NASBENCH_CELL, REDUCTION_CELL, Cell, cast, make_cell
from torch import Tensor

from hwnas import kernels
from hwnas.kernels import Edge, FlatLayout, FlatTensors
from hwnas.kernels.held import held_parameters, held_statistics, statistics_rows
from hwnas.kernels.plan import tensors_of

pytestmark = pytest.mark.usefixtures("needs_kernels")


def copies(case: Cell, dtype: torch.dtype, *, is_flat: bool) -> list[Edge]:
    """The edges with tensors of their own."""
    edges = []
    for edge in case.edges:
        candidates = [cast(candidate, dtype) for candidate in edge.candidates]
        edges.append(edge._replace(candidates=flat(candidates) if is_flat else candidates))
    return edges


def outcome(case: Cell, edges: Sequence[Edge], impl: str, **settings) -> list[Tensor]:
    """Nodes, all gradients with those of parameters as one vector, and running statistics."""
    parameters, statistics = held_parameters(edges).tensors, held_statistics(edges)
    dtype = parameters[0].dtype
    inputs = [x.to(dtype, copy=True).requires_grad_() for x in case.inputs]
    weights = case.weights.to(dtype, copy=True).requires_grad_()
    nodes = kernels.mixed_cell(inputs, weights, edges, impl=impl, **settings)
    gradients = [g.to(dtype) for g in case.gradients]
    found = torch.autograd.grad(nodes, [*inputs, weights, *parameters], gradients)
    of_parameters = torch.cat([g.flatten() for g in found[len(inputs) + 1 :]])
    return [*nodes, *found[: len(inputs) + 1], of_parameters, *statistics_rows(statistics)]


@pytest.mark.parametrize("impl", ["cpu", "torch"])
@pytest.mark.parametrize(
    "space, structure, options",
    [
        ("darts", DARTS_CELL, {}),
        ("darts", REDUCTION_CELL, {"active": (3, 4, 6)}),
        ("darts", ((0, 1, 2),), {"with_affine": True}),
        ("nasbench201", NASBENCH_CELL, {}),
    ],
)
def test_flat_and_separate_tensors_agree_bit_by_bit(space, structure, options, impl) -> None:
    case = make_cell(space, structure, 2, 5, (6, 7), seed=1, **options)
    for settings in ({}, {"recompute": "all"}, {"momentum": 1.0}):
        results = [
            outcome(case, copies(case, torch.float32, is_flat=is_flat), impl, **settings)
            for is_flat in (True, False)
        ]
        for found, expected in zip(*results, strict=True):
            assert torch.equal(found, expected)


def test_inactive_and_frozen_candidates_get_no_gradient() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=2)
    (edge,) = copies(case, torch.float32, is_flat=True)
    frozen, learned, inactive = (edge.candidates[k].tensors for k in (4, 5, 6))
    frozen.vector.requires_grad_(False)
    x, weights = case.inputs[0].float(), case.weights.float()
    cell = kernels.Cell(1, [edge])
    (node,) = cell([x], weights, active=[(4, 5)], impl="cpu")
    node.sum().backward()
    assert frozen.vector.grad is None and inactive.vector.grad is None
    assert learned.vector.grad.shape == learned.vector.shape
    before = inactive.running.clone()
    rows = [row for k in (4, 5) for row in edge.candidates[k].tensors.layout.norms.values()]
    cell([x], weights, active=[(4, 5)], impl="cpu")
    changed = (inactive.running != before).any(dim=2).any(dim=0)
    assert changed.nonzero().flatten().tolist() == rows


def test_a_cell_follows_vectors_that_are_moved_and_converted_in_place() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=3)
    (edge,) = copies(case, torch.float64, is_flat=True)
    cell = kernels.Cell(1, [edge])
    (before,) = cell(case.inputs, case.weights, impl="cpu", training=False)
    for _, tensors in edge.candidates:
        if tensors.vector is not None:
            # One float further than the kernels' alignment, in the middle of other memory.
            memory = torch.empty(tensors.vector.numel() + 1)
            memory[1:] = tensors.vector.detach()
            tensors.vector.data = memory[1:]
    running = edge.candidates[1].tensors.running
    running.data = running.float()
    (after,) = cell([case.inputs[0].float()], case.weights.float(), impl="cpu", training=False)
    torch.testing.assert_close(after.double(), before, rtol=1e-4, atol=1e-4)


def test_vectors_of_another_size_or_order_are_refused() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=4)
    (edge,) = copies(case, torch.float32, is_flat=True)
    tensors = edge.candidates[4].tensors
    x, weights = case.inputs[0].float(), case.weights.float()
    cell = kernels.Cell(1, [edge])
    tensors.vector.data = tensors.vector.data[:-1]
    with pytest.raises(
        RuntimeError, match=r"sep_conv_3x3: depthwise1.*\(271,\), expected \(272,\)"
    ):
        cell([x], weights, impl="cpu")
    other = FlatLayout(dict(reversed(tensors.layout.shapes.items())), tensors.layout.norms)
    listed = list(edge.candidates)
    listed[4] = kernels.Candidate("sep_conv_3x3", FlatTensors(other, tensors.vector))
    with pytest.raises(ValueError, match="the vector of sep_conv_3x3 must hold depthwise1.weight"):
        kernels.Cell(1, [edge._replace(candidates=listed)])([x], weights)


@pytest.mark.parametrize("running", [None, torch.zeros(2, 1, 8), torch.zeros(2, 8)])
def test_running_statistics_without_rows_for_all_norms_are_refused(running) -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=5)
    (edge,) = copies(case, torch.float32, is_flat=True)
    listed = list(edge.candidates)
    tensors = listed[4].tensors
    listed[4] = kernels.Candidate(
        "sep_conv_3x3", FlatTensors(tensors.layout, tensors.vector, running)
    )
    with pytest.raises(ValueError, match=r"running statistics must be \(2, norms, channels\)"):
        kernels.mixed_op(case.inputs[0].float(), case.weights[0].float(), listed)


def test_running_statistics_that_shrink_later_are_refused() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=6)
    (edge,) = copies(case, torch.float32, is_flat=True)
    x, weights, cell = case.inputs[0].float(), case.weights.float(), kernels.Cell(1, [edge])
    cell([x], weights, impl="cpu")
    running = edge.candidates[4].tensors.running
    running.data = running.data[:, :2].clone()
    with pytest.raises(RuntimeError, match=r"running statistics in one tensor is \(2, 2, 8\)"):
        cell([x], weights, impl="cpu")


def test_flat_tensors_are_a_mapping_of_views() -> None:
    case = make_cell("darts", ((0, 1, 2),), 2, 8, (6, 6), seed=7)
    for separate, (name, tensors) in zip(
        case.edges[0].candidates, flat(case.edges[0].candidates), strict=True
    ):
        known = {k: t for k, t in separate.tensors.items() if "num_batches" not in k}
        assert set(tensors) == set(known) and len(tensors) == len(known), name
        for key, tensor in known.items():
            assert key in tensors
            assert torch.equal(tensors[key], tensor)
    assert "bn1.running_max" not in tensors
    with pytest.raises(KeyError):
        tensors["bn1.running_max"]
    tensors["pointwise.weight"].detach().zero_()
    assert int((tensors.vector == 0).sum()) == 64
    assert tensors_of(case.edges)[0][-1][1] == "pointwise.weight"


def test_the_order_of_running_statistics_is_that_of_their_rows() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 8, (6, 6), seed=8)
    edges = copies(case, torch.float32, is_flat=True)
    held = held_statistics(edges)
    for number, tensor in enumerate(held.tensors):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 1000 * number)
    rows = statistics_rows(held)
    in_order = torch.stack([rows[i] for i in held.order])
    assert torch.equal(in_order, torch.cat([t.flatten(0, 1) for t in held.tensors]))
    some = [edge._replace(active=(1, 4)) for edge in edges]
    assert held_statistics(some).order is None
    separate = held_statistics(case.edges)
    assert separate.order == tuple(range(len(separate.tensors)))
