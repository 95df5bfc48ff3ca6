"""A search step of two cells by the Triton kernels; run like the tests in `triton_cases.py`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.triton_cases import DEVICE, FLOAT32, WIDE, assert_close
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import build_space
from hwnas.spaces.darts import DartsSpace
from hwnas.spaces.darts_networks import DartsSupernet
from hwnas.supernet.evaluate import frozen


def two_cells(nodes: int) -> tuple[DartsSpace, DartsSupernet]:
    """A normal and a reduction cell of DARTS, with 8 candidates on each edge."""
    sizes = {"input_channels": 3, "height": 4, "width": 4, "classes": 3, "nodes": nodes}
    space = build_space("darts", {"cells": 3, "channels": 4, "stem_multiplier": 1} | sizes)
    assert isinstance(space, DartsSpace)
    last = space.cells[1]
    head = space.options.head_operator(space.options.nodes * last.channels, *last.out_size)
    torch.manual_seed(0)
    return space, DartsSupernet(space.stem, space.cells[:2], space.edges, head, 1)


def search_step(impl: str, dtype: torch.dtype, nodes: int) -> list[Tensor]:
    """The gradient of the mixing weights, the loss, and all weights and statistics afterwards."""
    space, supernet = two_cells(nodes)
    supernet.to(DEVICE, dtype)
    use_kernels(supernet, impl, "nothing")
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 4, 4, generator=generator).to(DEVICE, dtype)
    labels = torch.tensor([0, 2], device=DEVICE)
    weights = torch.rand(space.mask.shape, generator=generator).to(DEVICE, dtype)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.025, momentum=0.9)

    def loss_of(mixture: Mixture) -> Tensor:
        return F.cross_entropy(supernet(images, mixture), labels)

    with frozen(supernet):
        attached = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(Mixture(attached)), attached)
    loss = loss_of(Mixture(weights))
    torch.autograd.backward(loss)
    optimizer.step()
    state = [t for t in supernet.state_dict().values() if t.is_floating_point()]
    return [gradient, loss.detach(), *state]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("nodes", [2, 4])
def test_a_search_step_of_two_cells(nodes) -> None:
    """Forward and backward pass of the architecture and of the weights, and the optimiser.

    With 4 nodes, these are the cells of the paper, of 14 edges each.
    """
    found = search_step("triton", FLOAT32, nodes)
    exact, native = (search_step("torch", kind, nodes) for kind in (WIDE, FLOAT32))
    assert_close(found, exact, native, FLOAT32)
