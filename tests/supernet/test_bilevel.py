"""Second-order gradients against differentiation through the unrolled step, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import TINY_SIZES, table_of, tiny_space
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.nn.mixed_op import use_kernels
from hwnas.spaces import SPACES
from hwnas.supernet import bilevel
from hwnas.supernet.bilevel import evaluate_mixture_second_order
from hwnas.supernet.evaluate import evaluate_mixture


def double_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (6, TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    return images, torch.randint(TINY_SIZES["classes"], (6,), generator=generator)


# Generators make no scores of classes.
@pytest.fixture(params=sorted(set(SPACES) - {"decoder"}))
def setting(request):
    torch.manual_seed(0)
    space = tiny_space(request.param)
    supernet = space.supernet().double().train()
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    weights = torch.softmax(torch.randn(space.mask.shape, dtype=torch.float64), dim=1) * space.mask
    # One step, so that there is momentum.
    images, labels = double_batch(9)
    F.cross_entropy(supernet(images, Mixture(weights)), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return space, supernet, optimizer, Mixture(weights)


def test_second_order_gradient_matches_autograd_through_the_unrolled_step(
    setting, monkeypatch
) -> None:
    # At the published step of 0.01, many ReLUs of so small a network change sign.
    monkeypatch.setattr(bilevel, "RELATIVE_STEP", 1e-6)
    space, supernet, optimizer, mixture = setting
    cost = CostModel(space, table_of(space))
    found = evaluate_mixture_second_order(
        supernet,
        [Limit(cost, 1.0)],
        mixture,
        double_batch(1),
        double_batch(2),
        optimizer,
        multiplier=0.7,
    )
    weights = mixture.weights.clone().requires_grad_()
    names = [name for name, _ in supernet.named_parameters()]
    values = list(supernet.parameters())
    training, validation = double_batch(1), double_batch(2)

    def loss(parameters, batch) -> torch.Tensor:
        net = copy.deepcopy(supernet)
        # Fused kernels, of attention too, only have first derivatives.
        use_kernels(net, "torch", "nothing")
        state = dict(zip(names, parameters, strict=True))
        with sdpa_kernel(SDPBackend.MATH):
            logits = functional_call(net, state, (batch[0], Mixture(weights)))
        return F.cross_entropy(logits, batch[1])

    gradients = torch.autograd.grad(
        loss(values, training), values, create_graph=True, allow_unused=True
    )
    unrolled = []
    for value, gradient in zip(values, gradients, strict=True):
        step = 1e-3 * value + (0 if gradient is None else gradient)
        buffer = optimizer.state.get(value, {}).get("momentum_buffer")
        unrolled.append(value - 0.05 * (step + (0 if buffer is None else 0.9 * buffer)))
    objective = loss(unrolled, validation) + 0.7 * (cost(Mixture(weights)) - 1.0)
    (expected,) = torch.autograd.grad(objective, weights)
    assert found.objective == pytest.approx(objective.item(), rel=1e-9)
    torch.testing.assert_close(found.gradient, expected, rtol=2e-3, atol=2e-5)


def test_second_order_restores_weights_and_statistics(setting) -> None:
    space, supernet, optimizer, mixture = setting
    before = copy.deepcopy(supernet.state_dict())
    evaluate_mixture_second_order(
        supernet,
        [Limit(CostModel(space, table_of(space)), 1.0)],
        mixture,
        double_batch(1),
        double_batch(2),
        optimizer,
        multiplier=0.0,
    )
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_first_order_leaves_the_weights_without_gradients(setting) -> None:
    space, supernet, _, mixture = setting
    outcome = evaluate_mixture(
        supernet,
        [Limit(CostModel(space, table_of(space)), 1.0)],
        mixture,
        double_batch(1),
        multiplier=0.5,
        with_gradient=True,
    )
    assert outcome.gradient is not None
    assert outcome.gradient.abs().sum() > 0
    assert all(p.grad is None for p in supernet.parameters())
