"""What callers may do with the tensors that the fused operators return."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from helpers.cells import make_cell
from torch import Tensor

from hwnas import kernels
from hwnas.kernels.cpu.memory import MEMORY, SMALLEST_BYTES

pytestmark = pytest.mark.usefixtures("needs_kernels")

CHAIN = ((0, 1, 1), (1, 2, 1))
SIZES = {"small": (6, 6), "from the pool": (64, 48)}


def evaluate(impl: str, size: tuple[int, int], change=lambda out: out) -> tuple[Tensor, ...]:
    """Output of an edge after a change, gradients of its input and of its mixing weights."""
    case = make_cell("darts", ((0, 1, 1),), 2, 8, size, seed=1)
    x, weights = case.inputs[0].requires_grad_(), case.weights[0].requires_grad_()
    out = change(kernels.mixed_op(x, weights, case.edges[0].candidates, impl=impl))
    return out.detach(), *torch.autograd.grad(out.sin().sum(), (x, weights))


def weighted(impl: str, size: tuple[int, int], change) -> tuple[Tensor, ...]:
    """The same for `weighted_norms`."""
    torch.manual_seed(0)
    branches = [torch.randn(2, 8, *size, dtype=torch.float64).requires_grad_() for _ in range(2)]
    weights = torch.rand(2, dtype=torch.float64, requires_grad=True)
    running = [torch.ones(8, dtype=torch.float64) for _ in range(4)]
    out = change(kernels.weighted_norms(branches, weights, running[:2], running[2:], impl=impl))
    return out.detach(), *torch.autograd.grad(out.sin().sum(), (*branches, weights))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("f", [evaluate, weighted])
@pytest.mark.parametrize("method", ["relu_", "exp_", "zero_"])
def test_outputs_can_be_changed_in_place(method, f, size) -> None:
    exact, found = (
        f(impl, SIZES[size], lambda out: getattr(out, method)()) for impl in ("torch", "cpu")
    )
    for value, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_a_changed_state_that_the_backward_pass_reads_is_an_error(size) -> None:
    case = make_cell("darts", CHAIN, 2, 8, SIZES[size], seed=1)
    x = case.inputs[0].requires_grad_()
    nodes = kernels.mixed_cell([x], case.weights, case.edges, impl="cpu")
    nodes[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(nodes[1].sum(), x)


def test_the_last_node_can_be_changed_in_place() -> None:
    found = []
    for impl in ("torch", "cpu"):
        case = make_cell("darts", CHAIN, 2, 8, (6, 6), seed=1)
        x = case.inputs[0].requires_grad_()
        nodes = kernels.mixed_cell([x], case.weights, case.edges, impl=impl)
        nodes[1].mul_(2)
        found.append(torch.autograd.grad((nodes[0] + nodes[1]).sin().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def plain_output(size: tuple[int, int]) -> Tensor:
    case = make_cell("darts", ((0, 1, 1),), 2, 8, size, seed=1)
    with torch.no_grad():
        return kernels.mixed_op(case.inputs[0], case.weights[0], case.edges[0].candidates)


def test_a_small_output_can_be_resized() -> None:
    small = plain_output(SIZES["small"])
    kept = small.clone()
    small.resize_(3, 8, 6, 6)
    assert torch.equal(small.as_strided(kept.shape, kept.stride()), kept)


def test_an_output_from_the_pool_cannot_be_resized() -> None:
    pooled = plain_output(SIZES["from the pool"])
    assert pooled.nbytes >= SMALLEST_BYTES
    kept, other = pooled.clone(), pooled[:]
    with pytest.raises(RuntimeError, match="not resizable"):
        pooled.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="not resizable"):
        pooled.resize_(3, 8, 64, 48)
    assert torch.equal(other, kept)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("of", ["input", "weights", "parameters"])
def test_an_output_with_a_gradient_cannot_be_resized(of, size) -> None:
    """Whichever tensor the gradient is of: no other one requires it."""
    case = make_cell("darts", ((0, 1, 1),), 2, 8, SIZES[size], seed=1)
    candidates = case.edges[0].candidates
    parameters = [t for c in candidates for t in c.tensors.values() if t.requires_grad]
    leaves = {"input": [case.inputs[0]], "weights": [case.weights], "parameters": parameters}
    assert parameters
    for name, tensors in leaves.items():
        for tensor in tensors:
            tensor.requires_grad_(name == of)
    out = kernels.mixed_op(case.inputs[0], case.weights[0], candidates, impl="cpu")
    kept = out.detach().clone()
    with pytest.raises(RuntimeError, match="cannot resize variables that require grad"):
        out.resize_(1, 8, 6, 6)
    assert torch.equal(out, kept)


def saved_and_loaded(out: Tensor) -> Tensor:
    stream = io.BytesIO()
    torch.save(out, stream)
    stream.seek(0)
    return torch.load(stream)


@pytest.mark.parametrize(
    "handed_on",
    [
        lambda out: out[1:],
        lambda out: torch.from_numpy(out.numpy()),
        torch.from_dlpack,
        copy.deepcopy,
        saved_and_loaded,
        lambda out: out.share_memory_(),
    ],
    ids=["view", "numpy", "dlpack", "deepcopy", "file", "shared memory"],
)
def test_what_is_made_of_an_output_outlives_it(handed_on) -> None:
    """Blocks of the pool are not handed out again while anything refers to them."""
    size = SIZES["from the pool"]
    out = plain_output(size)
    other = handed_on(out)
    kept = other.clone()
    del out
    blocks = [MEMORY.empty((2, *size, 8), torch.float64).fill_(7.0) for _ in range(8)]
    assert len(blocks) == 8
    assert torch.equal(other, kept)
