"""A step of a supernet reads no number from its device and makes no tensor of Python numbers.

On a GPU the first waits for all kernels before it, and the second is a copy from the host, which a
captured graph cannot hold.
"""

from __future__ import annotations

import pytest
import torch
from helpers.tiny import TINY_SIZES, tiny_space
from helpers.waits import Watch

from hwnas.architecture import Mixture
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import SPACES


def test_what_would_wait_is_noticed() -> None:
    x = torch.rand(3)
    with Watch() as watch:
        x[x > 0]
        x.sum().item()
        torch.tensor([1.0])
    assert set(watch.found) == {
        "aten::index.Tensor with a mask",
        "aten::_local_scalar_dense reads a number",
        "aten::lift_fresh makes a tensor of Python numbers",
    }
    with Watch() as watch:
        x[[0, 2]]
    assert set(watch.found) == {"aten::lift_fresh makes a tensor of Python numbers"}
    with Watch() as watch:
        x[torch.arange(2)]
    assert watch.found == {}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("soft", [True, False], ids=["soft", "single path"])
@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_step_of_a_supernet_waits_for_nothing(name, soft, training, rng) -> None:
    torch.manual_seed(0)
    space = tiny_space(name)
    supernet = space.supernet().train(training)
    use_kernels(supernet, "torch", "nothing")
    mixture = Mixture(0.5 * space.mask) if soft else space.one_hot(space.sample(rng))
    mixture.weights.requires_grad_()
    images = torch.randn(2, TINY_SIZES["input_channels"], 9, 7)
    supernet(images, mixture)  # what is computed at the first call may be kept
    with Watch() as watch:
        supernet(images, mixture).square().sum().backward()
    assert watch.found == {}
