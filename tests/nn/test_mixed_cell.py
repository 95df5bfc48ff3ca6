"""Cells of mixed operators follow what is done to their modules, and are copied whole."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from hwnas.architecture import Mixture
from hwnas.nn.mixed_op import MixedCell, use_kernels
from hwnas.spaces import build_space

SPACE = {"cells": 3, "channels": 8, "height": 6, "width": 6}


def cell_of(partial: int = 1) -> tuple[MixedCell, list[Tensor], Mixture]:
    """A cell of a supernet, with states and a mixture for it."""
    torch.manual_seed(0)
    space = build_space("darts", SPACE)
    supernet = space.supernet(partial) if partial > 1 else space.supernet()
    use_kernels(supernet, "torch", "nothing")
    cell = next(m for m in supernet.modules() if isinstance(m, MixedCell))
    channels = cell.mixed_ops[0].specs[0].c_in
    states = [torch.randn(2, channels, 6, 6) for _ in range(2)]
    return cell, states, Mixture(torch.rand(space.mask.shape).softmax(1))


def replace_parameter(cell: MixedCell) -> None:
    mixed_op = cell.mixed_ops[0]
    mixed_op.sep_conv_3x3 = nn.Parameter(2 * torch.rand_like(mixed_op.sep_conv_3x3))


def replace_operator(cell: MixedCell) -> None:
    cell.mixed_ops[0] = copy.deepcopy(cell.mixed_ops[0])
    change_values(cell)


def change_values(cell: MixedCell) -> None:
    with torch.no_grad():
        cell.mixed_ops[0].sep_conv_3x3.mul_(torch.rand_like(cell.mixed_ops[0].sep_conv_3x3))


@pytest.mark.parametrize("change", [replace_parameter, replace_operator, change_values])
@pytest.mark.parametrize("partial", [1, 4])
def test_changed_candidates_are_used(partial, change) -> None:
    cell, states, mixture = cell_of(partial)
    before = cell(states, mixture)
    change(cell)
    after = cell(states, mixture)
    fresh = copy.deepcopy(cell)
    assert fresh._prepared is None
    for old, found, expected in zip(before, after, fresh(states, mixture), strict=True):
        assert not torch.equal(old, found)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("partial", [1, 4])
def test_how_activations_are_stored_is_set_for_all_cells(partial) -> None:
    cell, states, mixture = cell_of(partial)
    weights = mixture.weights.requires_grad_()
    found = {}
    for storage in ("exact", "bfloat16"):
        use_kernels(cell, "auto", "nothing", storage)
        nodes = cell(states, Mixture(weights))
        found[storage] = torch.cat([node.detach().flatten() for node in nodes])
    assert not torch.equal(*found.values())
    torch.testing.assert_close(*found.values(), rtol=0, atol=0.05)


def through_a_file(cell: MixedCell) -> MixedCell:
    stream = io.BytesIO()
    torch.save(cell, stream)
    stream.seek(0)
    loaded: MixedCell = torch.load(stream, weights_only=False)
    return loaded


@pytest.mark.parametrize("copied", [copy.deepcopy, through_a_file])
def test_copies_have_their_own_tensors(copied) -> None:
    cell, states, mixture = cell_of()
    before = cell(states, mixture)
    other = copied(cell)
    change_values(other)
    other(states, mixture)
    for old, found in zip(before, cell(states, mixture), strict=True):
        assert torch.equal(old, found)


def test_an_unchanged_cell_is_prepared_once() -> None:
    cell, states, mixture = cell_of()
    cell(states, mixture)
    prepared = cell.prepared()
    cell(states, mixture)
    assert cell.prepared() is prepared
