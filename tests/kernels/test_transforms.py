"""Under the transforms of PyTorch, plain PyTorch runs or an error says why not; never a zero."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from helpers.cells import make_cell
from torch import Tensor, func
from torch.autograd import forward_ad

from hwnas import kernels

pytestmark = pytest.mark.usefixtures("needs_kernels")

Function = Callable[[Tensor], Tensor]


def dual(f: Function, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


TRANSFORMS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "jvp": lambda f, x: func.jvp(f, (x,), (x.cos(),))[1],
    "vjp": lambda f, x: func.vjp(f, x)[1](x.cos())[0],
    "grad": lambda f, x: func.grad(lambda a: f(a).square().sum())(x),
    "vmap": lambda f, x: func.vmap(f)(torch.stack((x, x.cos()))),
    "jvp of grad": lambda f, x: func.jvp(
        func.grad(lambda a: f(a).square().sum()), (x,), (x.cos(),)
    )[1],
    "dual numbers": dual,
}


def functions(impl: str, x: Tensor) -> dict[str, Function]:
    """The fused operators as functions of their input, without batch statistics."""
    case = make_cell("darts", ((0, 1, 1),), 2, 6, (5, 4), seed=1)
    candidates = [
        c._replace(tensors={k: v.detach() for k, v in c.tensors.items()})
        for c in case.edges[0].candidates
    ]
    running = [torch.rand(6, dtype=torch.float64) + 0.5 for _ in range(4)]
    return {
        "mixed_op": lambda a: kernels.mixed_op(
            a, case.weights[0], candidates, training=False, impl=impl
        ),
        "weighted_norms": lambda a: kernels.weighted_norms(
            [a, a.sin()], case.weights[0, :2], running[:2], running[2:], training=False, impl=impl
        ),
    }


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["mixed_op", "weighted_norms"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_auto_runs_plain_pytorch(transform, name, x) -> None:
    torch.manual_seed(0)
    expected = TRANSFORMS[transform](functions("torch", x)[name], x)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = TRANSFORMS[transform](functions("auto", x)[name], x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["mixed_op", "weighted_norms"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_kernels_that_are_asked_for_are_refused(transform, name, x) -> None:
    expected = "forward-mode" if transform == "dual numbers" else "torch.func"
    with pytest.raises(RuntimeError, match=f"impl='cpu' cannot be used.*{expected}"):
        TRANSFORMS[transform](functions("cpu", x)[name], x)


def test_vmap_agrees_with_a_loop(x) -> None:
    f = functions("torch", x)["mixed_op"]
    both = torch.stack((x, x.cos()))
    torch.testing.assert_close(func.vmap(f)(both), torch.stack([f(a) for a in both]))


def test_training_runs_under_forward_mode_differentiation(x) -> None:
    case = make_cell("darts", ((0, 1, 1),), 2, 6, (5, 4), seed=1)
    candidates, weights = case.edges[0].candidates, case.weights[0]

    def f(a: Tensor, impl: str) -> Tensor:
        return kernels.mixed_op(a, weights, candidates, impl=impl)

    step = 1e-6
    _, found = func.jvp(lambda a: f(a, "auto"), (x,), (x.cos(),))
    difference = (f(x + step * x.cos(), "cpu") - f(x - step * x.cos(), "cpu")) / (2 * step)
    torch.testing.assert_close(found, difference.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mixed_op", "weighted_norms"])
def test_a_transformed_backward_pass_is_refused(name, x) -> None:
    x.requires_grad_()
    out = functions("cpu", x)[name](x)
    with pytest.raises(RuntimeError, match="cannot run under a transform of torch.func"):
        func.jvp(lambda g: torch.autograd.grad(out, x, g)[0], (out.detach(),), (out.detach(),))


@pytest.mark.parametrize(
    "name, message",
    [
        ("mixed_op", "cannot be batched.*impl='torch'"),
        ("weighted_norms", "Batching rule not implemented for hwnas::weighted_norms"),
    ],
)
def test_batched_gradients_are_refused(name, message, x) -> None:
    x.requires_grad_()
    out = functions("cpu", x)[name](x)
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(out, x, torch.stack((out, out)).detach(), is_grads_batched=True)


@pytest.mark.parametrize("name", ["mixed_op", "weighted_norms"])
def test_dual_gradients_are_refused(name, x) -> None:
    x.requires_grad_()
    out = functions("cpu", x)[name](x)
    with forward_ad.dual_level():
        gradient = forward_ad.make_dual(out.detach(), out.detach().cos())
        with pytest.raises(RuntimeError, match="cannot run under forward-mode"):
            torch.autograd.grad(out, x, gradient)


@pytest.mark.parametrize("name", ["mixed_op", "weighted_norms"])
def test_second_derivatives_name_the_finite_differences(name, x) -> None:
    x.requires_grad_()
    out = functions("cpu", x)[name](x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives only.*search\.order = 2"):
        torch.autograd.grad(gradient.square().sum(), x)


def test_first_derivatives_with_create_graph_are_right(x) -> None:
    x.requires_grad_()
    f = functions("cpu", x)["mixed_op"]
    plain, kept = (
        torch.autograd.grad(f(x).square().sum(), x, create_graph=keep)[0] for keep in (False, True)
    )
    assert torch.equal(plain, kept.detach())
