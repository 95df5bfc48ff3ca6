"""Tensors whose storage was freed or shrunk are refused; negated ones are read as they are meant.

Training with sharded or offloaded weights frees storages and keeps the tensors. A negated tensor is
what, for example, the imaginary part of a conjugate is.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.cells import DARTS_CELL, copies, make_cell
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hwnas import kernels
from hwnas.kernels import Edge

pytestmark = pytest.mark.usefixtures("needs_kernels")
Arguments = tuple[list[Tensor], Tensor, list[Edge]]
MESSAGE = "reaches beyond its storage of .* bytes: the storage was freed or shrunk"


def arguments(is_flat: bool) -> Arguments:
    """Inputs, mixing weights and edges of a cell."""
    case = make_cell("darts", DARTS_CELL, 2, 16, (6, 5), seed=1)
    edges = copies(case, torch.float32, is_flat=is_flat)
    inputs = [x.float().requires_grad_() for x in case.inputs]
    return inputs, case.weights.float().requires_grad_(), edges


def shrink(tensor: Tensor, size: int = 0) -> None:
    tensor.untyped_storage().resize_(size)


def parameter(edges: list[Edge]) -> Tensor:
    tensors = edges[1].candidates[4].tensors
    is_flat = isinstance(tensors, kernels.FlatTensors)
    return tensors.parameters if is_flat else tensors["pointwise2.weight"]


def statistics(edges: list[Edge]) -> Tensor:
    tensors = edges[1].candidates[4].tensors
    is_flat = isinstance(tensors, kernels.FlatTensors)
    return tensors.buffers if is_flat else tensors["bn2.running_var"]


ROLES: dict[str, Callable[[Arguments], Tensor]] = {
    "input": lambda given: given[0][1],
    "mixing weights": lambda given: given[1],
    "parameter": lambda given: parameter(given[2]),
    "running statistics": lambda given: statistics(given[2]),
}


@pytest.mark.parametrize("is_flat", [True, False])
@pytest.mark.parametrize("role", ROLES)
def test_a_forward_pass_refuses_storage_that_was_freed(role, is_flat) -> None:
    given = arguments(is_flat)
    shrink(ROLES[role](given))
    with pytest.raises(RuntimeError, match=MESSAGE):
        kernels.mixed_cell(*given, impl="cpu")


@pytest.mark.parametrize("role", [role for role in ROLES if role != "running statistics"])
def test_a_backward_pass_refuses_storage_that_was_shrunk(role) -> None:
    given = arguments(is_flat=True)
    nodes = kernels.mixed_cell(*given, impl="cpu")
    tensor = ROLES[role](given)
    shrink(tensor, tensor.nbytes - 4)
    with pytest.raises(RuntimeError, match=MESSAGE):
        torch.stack([node.sum() for node in nodes]).sum().backward()


@pytest.mark.parametrize("which", [0, -1])
def test_what_a_hook_returns_must_have_memory(which) -> None:
    given = arguments(is_flat=True)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach().clone())
        return kept[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        nodes = kernels.mixed_cell(*given, impl="cpu")
    shrink(kept[which])
    with pytest.raises(RuntimeError, match=MESSAGE):
        nodes[-1].sum().backward()


def test_other_operators_refuse_storage_that_was_freed() -> None:
    x, weight, ones = torch.randn(2, 16, 4, 4), torch.randn(16, 16, 1, 1), [torch.ones(16)]
    freed = torch.empty_like(weight)
    shrink(freed)
    with pytest.raises(RuntimeError, match="storage"):
        kernels.relu_pointwise(x, freed, impl="cpu")
    shrink(x)
    with pytest.raises(RuntimeError, match="storage"):
        kernels.relu_pointwise(x, weight, impl="cpu")
    with pytest.raises(RuntimeError, match="storage"):
        kernels.weighted_norms([x], torch.ones(1), ones, ones, impl="cpu")


def negated(tensor: Tensor) -> Tensor:
    """The same values, of which memory has the negatives."""
    return torch._neg_view(-tensor.detach())


@pytest.mark.parametrize("is_flat", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_negated_tensors_are_read_as_they_are_meant(training, is_flat) -> None:
    results = []
    for change in (lambda tensor: tensor.detach().clone(), negated):
        inputs, weights, edges = arguments(is_flat)
        of_edge = edges[1].candidates[4].tensors
        if isinstance(of_edge, kernels.FlatTensors):
            vectors = change(of_edge.parameters).requires_grad_(), change(of_edge.buffers)
            tensors = kernels.FlatTensors(of_edge.layout, *vectors)
        else:
            tensors = {
                name: change(t).requires_grad_(t.requires_grad) if t.is_floating_point() else t
                for name, t in of_edge.items()
            }
        listed = list(edges[1].candidates)
        listed[4] = listed[4]._replace(tensors=tensors)
        changed = [edges[0], edges[1]._replace(candidates=listed), *edges[2:]]
        mixing = change(weights).requires_grad_()
        with saved_tensors_hooks(change, lambda tensor: tensor):
            nodes = kernels.mixed_cell(inputs, mixing, changed, impl="cpu", training=training)
        leaves = [*inputs, mixing, parameter(changed)]
        gradients = torch.autograd.grad(nodes, leaves, [change(torch.ones_like(n)) for n in nodes])
        results.append([*nodes, *gradients, statistics(changed).resolve_neg()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_negated_weight_of_a_pointwise_convolution() -> None:
    x, weight = torch.randn(2, 32, 4, 4), torch.randn(16, 32, 1, 1)
    found = kernels.relu_pointwise(x, negated(weight), impl="cpu")
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x.relu(), weight))
