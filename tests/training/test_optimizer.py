"""The optimisers of weights: fused kernels take the steps that PyTorch's plain ones take."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwnas.config import SearchConfig
from hwnas.training.optimizer import build_optimizer, load_optimizer

OPTIMIZERS = ("sgd", "adamw")


def network() -> nn.Module:
    """Two convolutions, whose weights lie in memory with the channels last."""
    torch.manual_seed(0)
    parts = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    return parts.to(memory_format=torch.channels_last)


def settings(name: str) -> SearchConfig:
    given = {"optimizer": name, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    return SearchConfig.model_validate({"steps": 1} | given)


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, parts: int = 2
) -> None:
    """A step of which only the first `parts` convolutions get gradients."""
    optimizer.zero_grad(set_to_none=True)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    y: Tensor = model(x) if parts == 2 else model[0](x)  # type: ignore[index]
    y.square().mean().backward()
    optimizer.step()


def plain(model: nn.Module, name: str) -> torch.optim.Optimizer:
    """PyTorch's optimiser without fused kernels."""
    given: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "foreach": False, "fused": False}
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, **given)
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.999), **given)


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_plain_optimiser(name: str) -> None:
    """Also where some weights get their first gradient later than others."""
    ours, reference = network(), network()
    optimizer, expected = build_optimizer(ours, settings(name)), plain(reference, name)
    assert optimizer.param_groups[0]["fused"]
    for seed, parts in enumerate((1, 1, 2, 1, 2)):
        take_step(ours, optimizer, seed, parts)
        take_step(reference, expected, seed, parts)
    assert_same_weights(ours, reference)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loaded_state_has_the_layout_of_the_weights(name: str) -> None:
    """A file holds tensors in the default order of dimensions, and another machine's choices."""
    ours, reference = network(), network()
    optimizer, expected = build_optimizer(ours, settings(name)), plain(reference, name)
    for model, found in ((ours, optimizer), (reference, expected)):
        take_step(model, found, seed=0)
    state = copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values |= {key: value.contiguous() for key, value in values.items()}
    state["param_groups"][0]["fused"] = None
    optimizer = build_optimizer(ours, settings(name))
    load_optimizer(optimizer, state)
    assert optimizer.param_groups[0]["fused"]
    for model, found in ((ours, optimizer), (reference, expected)):
        take_step(model, found, seed=1)
    assert_same_weights(ours, reference)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["weights", "gradients", "copied optimiser"])
def test_steps_agree_whatever_lies_elsewhere_in_memory(kind: str, name: str) -> None:
    ours, reference = network(), network()
    optimizer, expected = build_optimizer(ours, settings(name)), plain(reference, name)
    take_step(ours, optimizer, 0, 1)
    take_step(reference, expected, 0, 1)
    if kind == "weights":
        ours.to(memory_format=torch.contiguous_format)
    if kind == "copied optimiser":
        ours, optimizer = copy.deepcopy((ours, optimizer))
    for model, found in ((ours, optimizer), (reference, expected)):
        take_step(model, found, 1)
    if kind == "gradients":
        for parameter in ours.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad.contiguous()
        optimizer.step(), expected.step()
    assert_same_weights(ours, reference)


@pytest.mark.parametrize(
    "unfit",
    [
        nn.Embedding(3, 2, sparse=True),
        nn.Linear(2, 2, dtype=torch.complex64),
        nn.ParameterList([nn.Parameter(torch.zeros(4, 6)[:, ::2])]),
    ],
    ids=["sparse gradients", "complex numbers", "gaps in memory"],
)
def test_weights_that_fused_kernels_cannot_update_keep_the_plain_ones(unfit: nn.Module) -> None:
    optimizer = build_optimizer(nn.ModuleList([network(), unfit]), settings("sgd"))
    assert not optimizer.param_groups[0]["fused"]
