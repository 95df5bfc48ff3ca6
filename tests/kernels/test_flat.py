"""Candidates whose tensors are flat give the cell of candidates with separate tensors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers.candidates import flat
from helpers.cells import DARTS_CELL, NASBENCH_CELL, REDUCTION_CELL, Cell, copies, make_cell
from torch import Tensor

from hwnas import kernels
from hwnas.kernels import Edge, FlatLayout, FlatTensors
from hwnas.kernels.held import held_tensors

pytestmark = pytest.mark.usefixtures("needs_kernels")


def one_edge(seed: int, channels: int = 8) -> tuple[Edge, Tensor, Tensor]:
    """A flat edge in float32, a state and mixing weights."""
    case = make_cell("darts", ((0, 1, 1),), 2, channels, (6, 6), seed=seed)
    (edge,) = copies(case, torch.float32, is_flat=True)
    return edge, case.inputs[0].float(), case.weights.float()


def outcome(case: Cell, edges: Sequence[Edge], impl: str, **settings) -> list[Tensor]:
    """Nodes, all gradients with those of parameters as one vector, and running statistics."""
    held, statistics = held_tensors(edges)
    parameters = held.tensors
    dtype = parameters[0].dtype
    inputs = [x.to(dtype, copy=True).requires_grad_() for x in case.inputs]
    weights = case.weights.to(dtype, copy=True).requires_grad_()
    nodes = kernels.mixed_cell(inputs, weights, edges, impl=impl, **settings)
    gradients = [g.to(dtype) for g in case.gradients]
    found = torch.autograd.grad(nodes, [*inputs, weights, *parameters], gradients)
    of_parameters = torch.cat([g.flatten() for g in found[len(inputs) + 1 :]])
    return [*nodes, *found[: len(inputs) + 1], of_parameters, *statistics.separate()]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_candidates_that_are_left_out_stay_as_they_are(dtype) -> None:
    """Running statistics of another type than the states are copied, and copied back."""
    edge, x, weights = one_edge(seed=2)
    frozen, learned, inactive = (edge.candidates[k].tensors for k in (4, 5, 6))
    frozen.parameters.requires_grad_(False)
    statistics = inactive.buffers
    statistics.data = torch.rand(len(statistics), dtype=dtype)
    before = statistics.clone()
    (node,) = kernels.Cell(1, [edge])([x], weights, active=[(4, 5)], impl="cpu")
    node.sum().backward()
    assert frozen.parameters.grad is None and inactive.parameters.grad is None
    assert learned.parameters.grad.shape == learned.parameters.shape
    slots = [slot for tensors in (frozen, learned) for slot in tensors.layout.buffers.values()]
    expected = [i for slot in slots for i in range(slot.start, slot.end)]
    assert (statistics != before).nonzero().flatten().tolist() == expected


def test_a_cell_follows_vectors_that_are_moved_and_converted_in_place() -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, (6, 6), seed=3)
    (edge,) = copies(case, torch.float64, is_flat=True)
    cell = kernels.Cell(1, [edge])
    (before,) = cell(case.inputs, case.weights, impl="cpu", training=False)
    for _, tensors in edge.candidates:
        if tensors.parameters is not None:
            # One float further than the kernels' alignment, in the middle of other memory.
            memory = torch.empty(len(tensors.parameters) + 1)
            memory[1:] = tensors.parameters.detach()
            tensors.parameters.data = memory[1:]
    statistics = edge.candidates[1].tensors.buffers
    statistics.data = statistics.float().repeat_interleave(2)[::2]
    (after,) = cell([case.inputs[0].float()], case.weights.float(), impl="cpu", training=False)
    torch.testing.assert_close(after.double(), before, rtol=1e-4, atol=1e-4)


def with_tensors(edge: Edge, k: int, tensors: FlatTensors) -> Edge:
    listed = list(edge.candidates)
    listed[k] = listed[k]._replace(tensors=tensors)
    return edge._replace(candidates=listed)


def test_vectors_that_do_not_hold_what_the_kernels_expect_are_refused() -> None:
    edge, x, weights = one_edge(seed=4)
    layout, vector, statistics = vars(edge.candidates[4].tensors).values()
    shapes = {name: slot.shape for name, slot in layout.parameters.items()}
    buffers = {name: slot.shape for name, slot in layout.buffers.items()}
    reverse = FlatLayout(dict(reversed(shapes.items())), buffers)
    # Of the same length in all, but the second tensor would begin far behind the vector.
    shifted = FlatLayout(shapes | {"depthwise1.weight": (8, 1, 3, 300000)}, buffers)
    before, behind = (FlatLayout(shapes, buffers, first) for first in (-8, len(statistics)))
    for tensors, message in (
        (FlatTensors(reverse, vector, statistics), "must hold depthwise1.weight"),
        (FlatTensors(shifted, vector, statistics), "must have 7200200 elements, got .*272"),
        (FlatTensors(layout, None, statistics), "must have 272 elements, got none"),
        (FlatTensors(layout, vector.detach()[:-1], statistics), r"got shape \(271,\)"),
        (FlatTensors(layout, vector, None), "at least .* elements, got none"),
        (FlatTensors(layout, vector, statistics.view(2, -1)), "at least .* got shape"),
        (FlatTensors(before, vector, statistics), "at least 24 elements, got shape"),
        (FlatTensors(behind, vector, statistics), "at least .* elements, got shape"),
    ):
        with pytest.raises(RuntimeError, match=f"sep_conv_3x3.*{message}"):
            kernels.Cell(1, [with_tensors(edge, 4, tensors)])([x], weights, impl="cpu")


def test_vectors_that_change_later_are_refused() -> None:
    edge, x, weights = one_edge(seed=5)
    cell = kernels.Cell(1, [edge])
    cell([x], weights, impl="cpu")
    tensors = edge.candidates[4].tensors
    whole, statistics = tensors.parameters.data, tensors.buffers.data
    tensors.parameters.data = whole[:-1]
    with pytest.raises(RuntimeError, match=r"vector with depthwise1.*\(271,\), expected \(272,\)"):
        cell([x], weights, impl="cpu")
    tensors.parameters.data = whole
    tensors.buffers.data = statistics[:-1]
    with pytest.raises(RuntimeError, match=r"vector with bn.running_mean is \(127,\)"):
        cell([x], weights, impl="cpu")


def test_an_edge_of_other_channels_in_the_same_vectors_is_refused() -> None:
    """All vectors have the lengths of 4 channels, but their layouts are those of 16."""
    wide, narrow = one_edge(seed=6, channels=16)[0], one_edge(seed=6, channels=4)
    edge, x, weights = narrow
    for (_, tensors), (_, others) in zip(wide.candidates, edge.candidates, strict=True):
        if tensors.parameters is not None:
            tensors.parameters.data = others.parameters.data
        if tensors.buffers is not None:
            tensors.buffers.data = others.buffers.data
    with pytest.raises(RuntimeError, match="expected|elements"):
        kernels.Cell(1, [wide])([x], weights, impl="cpu")


def test_flat_tensors_are_a_mapping_of_views() -> None:
    case = make_cell("darts", ((0, 1, 2),), 2, 8, (6, 6), seed=7)
    for separate, candidate in zip(
        case.edges[0].candidates, flat(case.edges[0].candidates), strict=True
    ):
        tensors, views = candidate.tensors, candidate.views()
        known = {k: t for k, t in separate.tensors.items() if "num_batches" not in k}
        assert set(tensors) == set(known) == set(views) and len(tensors) == len(known)
        for key, tensor in known.items():
            assert key in tensors
            assert torch.equal(tensors[key], tensor) and torch.equal(views[key], tensor)
    assert "bn1.running_max" not in tensors
    with pytest.raises(KeyError):
        tensors["bn1.running_max"]
    tensors["pointwise.weight"].detach().zero_()
    assert int((tensors.parameters == 0).sum()) == 64


def test_the_order_of_running_statistics_is_that_of_the_vectors() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 8, (6, 6), seed=8)
    edges = copies(case, torch.float32, is_flat=True)
    _, held = held_tensors(edges)
    for number, tensor in enumerate(held.tensors):
        tensor.copy_(torch.arange(len(tensor)) + 1000 * number)
    rows = held.separate()
    assert torch.equal(torch.cat([rows[i] for i in held.order]), torch.cat(held.tensors))
    some = [edge._replace(active=(1, 4)) for edge in edges]
    assert held_tensors(some)[1].order is None
    _, separate = held_tensors(case.edges)
    rows = separate.separate()
    assert all(rows[i] is t for i, t in zip(separate.order, separate.tensors, strict=True))
