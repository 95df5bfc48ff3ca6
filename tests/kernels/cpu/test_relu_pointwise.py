"""ReLU and pointwise convolution in C++ against plain PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hwnas.kernels import relu_pointwise

pytestmark = pytest.mark.usefixtures("needs_kernels")

CHANNELS = [8, 16, 24, 48, 64, 136]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def operands(
    shape: tuple[int, int, int, int], outputs: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A state with zeros in it, a weight, and a gradient of the result, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.1] = 0.0
    weight = torch.randn(outputs, shape[1], 1, 1, dtype=torch.float64, generator=generator)
    gradient = torch.randn(shape[0], outputs, *shape[2:], dtype=torch.float64, generator=generator)
    return x.contiguous(memory_format=torch.channels_last), weight, gradient


def evaluate(
    x: Tensor, weight: Tensor, gradient: Tensor, impl: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the gradients of both operands."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    z = relu_pointwise(x, weight, impl=impl)
    return z.detach(), *torch.autograd.grad(z, (x, weight), gradient)


def plain(x: Tensor, weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same by PyTorch's operators."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    z = F.conv2d(F.relu(x), weight)
    return z.detach(), *torch.autograd.grad(z, (x, weight), gradient)


@pytest.mark.parametrize("pixels", [(1, 1, 1), (1, 7, 7), (1, 41, 25), (3, 32, 33)])
@pytest.mark.parametrize("channels, outputs", [(4, 8), (24, 12), (64, 4)])
def test_float64_is_exact(channels, outputs, pixels, instructions_of_float64) -> None:
    """Also over chunks and parts of pixels that are not full."""
    case = operands((pixels[0], channels, *pixels[1:]), outputs)
    torch.testing.assert_close(evaluate(*case), plain(*case), **EXACT)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from(CHANNELS),
    outputs=st.sampled_from(CHANNELS),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 10**6),
)
def test_float32_is_as_exact_as_pytorch(
    instructions, images, channels, outputs, height, width, seed
) -> None:
    exact_in = operands((images, channels, height, width), outputs, seed)
    case = tuple(t.float() for t in exact_in)
    expected = plain(*(t.double() for t in case))
    for found, torchs, exact in zip(evaluate(*case), plain(*case), expected, strict=True):
        error, allowed = ((t - exact).norm() for t in (found, torchs))
        assert error <= 2 * allowed + 1e-6 * exact.norm()


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_the_pixels(threads, instructions) -> None:
    case = tuple(t.float() for t in operands((3, 16, 30, 31), 32))
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, threads, threads):
            torch.set_num_threads(number)
            found.append(evaluate(*case))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(found[1], found[2], strict=True))


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_needed_gradients_are_computed(needed, instructions) -> None:
    x, weight, gradient = (t.float() for t in operands((2, 16, 5, 6), 8))
    expected = evaluate(x, weight, gradient)[1:]
    x.requires_grad_(needed[0]), weight.requires_grad_(needed[1])
    z = relu_pointwise(x, weight, impl="cpu")
    z.backward(gradient)
    for tensor, is_needed, value in zip((x, weight), needed, expected, strict=True):
        assert tensor.grad is None if not is_needed else torch.equal(tensor.grad, value)


def test_nan_stays_nan(instructions) -> None:
    x, weight, gradient = (t.float() for t in operands((1, 16, 3, 4), 16))
    x[0, 5, 1, 2] = torch.nan
    for found, expected in zip(
        evaluate(x, weight, gradient), plain(x, weight, gradient), strict=True
    ):
        assert torch.equal(found.isnan(), expected.isnan())


@pytest.mark.parametrize("kind", ["contiguous", "unaligned", "every other pixel", "expanded"])
def test_any_layout_of_the_operands(kind) -> None:
    x, weight, gradient = operands((2, 16, 6, 8), 16)

    def laid_out(t: Tensor) -> Tensor:
        if kind == "contiguous":
            return t.contiguous()
        if kind == "unaligned":
            memory = torch.empty(t.numel() + 1, dtype=t.dtype)[1:]
            return memory.view(t.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2).copy_(t)
        if kind == "every other pixel":
            return t.repeat_interleave(2, dim=3)[..., ::2]
        return t[:1].expand(t.shape)

    case = laid_out(x), weight, laid_out(gradient)
    torch.testing.assert_close(evaluate(*case), plain(*case), **EXACT)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, w: (x, w[:, :, 0]), "has a weight"),
        (lambda x, w: (x[:, :8], w), "has a weight"),
        (lambda x, w: (x[0], w), "has a weight"),
    ],
)
def test_weights_that_do_not_suit_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        relu_pointwise(*change(*operands((1, 16, 2, 2), 8)[:2]))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, w: (x[:, :5], w[:, :5]), "do not fill vectors"),
        (lambda x, w: (x.half(), w.half()), "no kernels for torch.float16"),
        (lambda x, w: (x, w.float()), "another"),
        (lambda x, w: (x[:0], w), "empty"),
    ],
)
def test_what_the_kernel_cannot_compute_is_left_to_pytorch(change, message) -> None:
    x, weight = change(*operands((1, 16, 2, 2), 8)[:2])
    with pytest.raises(RuntimeError, match=message):
        relu_pointwise(x, weight, impl="cpu")
    if x.dtype == weight.dtype:
        torch.testing.assert_close(relu_pointwise(x, weight), F.conv2d(F.relu(x), weight))


def test_transforms_and_second_derivatives_raise_or_run_in_pytorch() -> None:
    x, weight, gradient = operands((1, 8, 3, 3), 8)
    tangent = torch.ones_like(x)
    found = torch.func.jvp(lambda t: relu_pointwise(t, weight), (x,), (tangent,))[1]
    torch.testing.assert_close(found, F.conv2d((x > 0).double(), weight))
    with pytest.raises(RuntimeError, match="torch.func"):
        torch.func.jvp(lambda t: relu_pointwise(t, weight, impl="cpu"), (x,), (tangent,))
    z = relu_pointwise(x.requires_grad_(), weight.requires_grad_(), impl="cpu")
    (dx,) = torch.autograd.grad(z, x, gradient, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        dx.sum().backward()
    with pytest.raises(RuntimeError, match="cannot be batched"):
        torch.autograd.grad(z, x, gradient[None], is_grads_batched=True)


def test_fake_tensors_and_odd_views_are_left_to_pytorch() -> None:
    x, weight, _ = operands((1, 8, 3, 3), 8)
    mode = FakeTensorMode()
    with pytest.raises(RuntimeError, match="traced"):
        relu_pointwise(mode.from_tensor(x), mode.from_tensor(weight), impl="cpu")
    negated = torch._neg_view(x)
    torch.testing.assert_close(relu_pointwise(negated, weight), F.conv2d(F.relu(-x), weight))
    with torch.inference_mode():
        constant = x.clone()
    relu_pointwise(constant, weight.requires_grad_()).sum().backward()
    torch.testing.assert_close(weight.grad.flatten(1), F.relu(x).sum((0, 2, 3)).expand(8, 8))


def test_compiles_to_plain_pytorch() -> None:
    x, weight, _ = operands((1, 8, 3, 3), 8)
    compiled = torch.compile(relu_pointwise, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, weight), F.conv2d(F.relu(x), weight))
