"""Cells of a supernet that mix a part of the channels, against the paper's equation written out."""

from __future__ import annotations

import pytest
import torch
from helpers.candidates import modules_of
from helpers.tiny import tiny_space

from hwnas.architecture import Mixture
from hwnas.errors import InputError
from hwnas.nn.mixed_op import MixedCell


def by_hand(cell: MixedCell, inputs: list[torch.Tensor], weights: torch.Tensor) -> list:
    """Eq. 1 of PC-DARTS on every edge, with the operators as modules."""
    states = list(inputs)
    for node in sorted({target for _, target in cell.edges}):
        total = 0.0
        for row, (source, target) in enumerate(cell.edges):
            if target != node:
                continue
            share = states[source].shape[1] // cell.partial
            own, past = states[source][:, :share], states[source][:, share:]
            mixed = sum(
                weights[row, option] * candidate(own)
                for option, (name, candidate) in enumerate(modules_of(cell.mixed_ops[row]).items())
                if name != "none"
            )
            if mixed.shape[2:] != past.shape[2:]:
                past = torch.nn.functional.max_pool2d(past, 2, 2, ceil_mode=True)
            past = weights[row, 1:].sum() * past
            # Shuffled: the parts' first channels, then their second ones ...
            parts = [mixed, *past.split(share, dim=1)]
            total = total + torch.stack(parts, dim=2).flatten(1, 2)
        states.append(total)
    return states[len(inputs) :]


@pytest.mark.parametrize("partial", [2, 4])
@pytest.mark.parametrize("name", ["nasbench201", "darts"])
def test_part_of_the_channels_is_mixed_and_the_others_bypass(name: str, partial: int) -> None:
    torch.manual_seed(0)
    space = tiny_space(name, channels=8)
    supernet = space.supernet(partial_channels=partial).double().train()
    calls = []
    cells = [module for module in supernet.modules() if isinstance(module, MixedCell)]
    for cell in cells:
        cell.register_forward_pre_hook(lambda *call: calls.append(call))
    mixture = Mixture(torch.rand(space.mask.shape, dtype=torch.float64))
    supernet(torch.randn(3, 1, 9, 7, dtype=torch.float64), mixture)
    assert len(calls) == len(cells) > 1
    # Calling a cell again appends to `calls`.
    supernet_calls = tuple(calls)
    for cell, (given, _, *first) in supernet_calls:
        inputs = [x.detach().requires_grad_() for x in given]
        found = cell(inputs, mixture, *first)
        weights = mixture.weights[sum(first) :][: len(cell.edges)]
        expected = by_hand(cell, inputs, weights)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(sum(x.square().sum() for x in found), inputs)
        references = torch.autograd.grad(sum(x.square().sum() for x in expected), inputs)
        torch.testing.assert_close(gradients, references)


def test_channels_must_be_divisible() -> None:
    with pytest.raises(InputError, match="a divisor of 4"):
        tiny_space("darts").supernet(partial_channels=3)
