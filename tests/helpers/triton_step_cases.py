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


def two_cells() -> tuple[DartsSpace, DartsSupernet]:
    """A normal and a reduction cell of DARTS, of 2 nodes and 5 edges with 8 candidates each."""
    sizes = {"input_channels": 3, "height": 4, "width": 4, "classes": 3, "nodes": 2}
    space = build_space("darts", {"cells": 3, "channels": 4, "stem_multiplier": 1} | sizes)
    assert isinstance(space, DartsSpace)
    last = space.cells[1]
    head = space.options.head_operator(space.options.nodes * last.channels, *last.out_size)
    torch.manual_seed(0)
    return space, DartsSupernet(space.stem, space.cells[:2], space.edges, head, 1)


def search_step(impl: str, dtype: torch.dtype) -> list[Tensor]:
    """The gradient of the mixing weights, the loss, and all weights and statistics afterwards."""
    space, supernet = two_cells()
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
def test_a_search_step_of_two_cells() -> None:
    """Forward and backward pass of the architecture and of the weights, and the optimiser."""
    found = search_step("triton", FLOAT32)
    exact, native = (search_step("torch", kind) for kind in (WIDE, FLOAT32))
    assert_close(found, exact, native, FLOAT32)
