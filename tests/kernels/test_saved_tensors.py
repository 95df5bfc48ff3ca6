"""Tensors that `saved_tensors_hooks` return: other addresses and strides, other types and sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.cells import DARTS_CELL, make_cell
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hwnas import kernels

pytestmark = pytest.mark.usefixtures("needs_kernels")

Unpack = Callable[[Tensor], Tensor]


def at_offset(elements: int) -> Unpack:
    """Copies a tensor to an address that is so many elements after an aligned one."""

    def copy(t: Tensor) -> Tensor:
        room = torch.empty(t.numel() + elements + 16, dtype=t.dtype)
        return room[elements : elements + t.numel()].view(t.shape).copy_(t)

    return copy


def strided(t: Tensor) -> Tensor:
    """The same values with other strides: every second element of a larger tensor."""
    return torch.stack((t, torch.full_like(t, torch.nan)), dim=-1)[..., 0]


def cell(x: Tensor, weights: Tensor) -> Tensor:
    case = make_cell("darts", DARTS_CELL, 2, x.shape[1], (8, 7), seed=1)
    edges = [
        e._replace(candidates=[
            c._replace(tensors={k: v.to(x.dtype) for k, v in c.tensors.items()})
            for c in e.candidates
        ])
        for e in case.edges
    ]  # fmt: skip
    nodes = kernels.mixed_cell([x, x.sin()], weights, edges, impl="cpu")
    return torch.cat(nodes, dim=1)


def norms(x: Tensor, weights: Tensor) -> Tensor:
    running = [torch.ones(x.shape[1], dtype=x.dtype) for _ in range(4)]
    return kernels.weighted_norms(
        [x, x.sin()], weights[0, :2], running[:2], running[2:], impl="cpu"
    )


def projection(x: Tensor, weights: Tensor) -> Tensor:
    state = torch.cat([x.sin(), x] * 4, dim=1)
    matrix = weights.sum().expand(8, state.shape[1], 1, 1)
    return kernels.relu_pointwise(state, matrix, impl="cpu")


def gradients(
    f: Callable[[Tensor, Tensor], Tensor], unpack: Unpack, dtype: torch.dtype, channels: int
) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(2, channels, 8, 7, dtype=dtype, requires_grad=True)
    weights = torch.rand(len(DARTS_CELL), 8, dtype=dtype, requires_grad=True)
    with saved_tensors_hooks(lambda t: t.detach().clone(), unpack):
        out = f(x, weights)
    return torch.autograd.grad(out, (x, weights), torch.cos(out.detach()))


@pytest.mark.parametrize("channels", [16, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("f", [cell, norms, projection])
@pytest.mark.parametrize(
    "unpack",
    [*(at_offset(n) for n in (1, 4, 8)), strided],
    ids=["1 element off", "4 off", "8 off", "strided"],
)
def test_any_address_and_strides_give_the_same_gradients(unpack, f, dtype, channels) -> None:
    expected = gradients(f, lambda t: t, dtype, channels)
    for found, exact in zip(gradients(f, unpack, dtype, channels), expected, strict=True):
        assert torch.equal(found, exact)


@pytest.mark.parametrize("f", [cell, norms, projection])
@pytest.mark.parametrize(
    "unpack, found",
    [
        (lambda t: t.half(), "torch.float16"),
        (lambda t: t.to("meta"), "meta"),
        (lambda t: t.flatten()[:1], "of 1 elements in 1 dimensions"),
        (lambda t: t.unsqueeze(0), "in 5 dimensions"),
        (lambda t: t.reshape(1, -1, *t.shape[2:]) if t.dim() == 4 else t, r"of shape \(1, "),
    ],
    ids=["type", "device", "size", "dimensions", "shape"],
)
def test_other_types_devices_and_sizes_are_refused(unpack, found, f) -> None:
    with pytest.raises(ValueError, match=f"saved for the backward pass.*{found}"):
        gradients(f, unpack, torch.float32, 16)


def test_parameters_and_inputs_at_any_address() -> None:
    """Files that are mapped into memory hold tensors at addresses that suit no element."""
    case = make_cell("darts", ((0, 1, 2),), 2, 6, (5, 4), seed=2)
    results = []
    for offset in (0, 1):

        def moved(t: Tensor, offset: int = offset) -> Tensor:
            if not t.is_floating_point():
                return t
            raw = torch.zeros(t.nbytes + 64, dtype=torch.uint8)
            start = -raw.data_ptr() % 16 + offset
            part = raw[start : start + t.nbytes].numpy()
            return torch.frombuffer(part, dtype=t.dtype).view(t.shape).copy_(t.detach())

        leaves = [moved(case.inputs[0]), moved(case.weights[0])]
        candidates = [
            c._replace(tensors={k: moved(v) for k, v in c.tensors.items()})
            for c in case.edges[0].candidates
        ]
        leaves += [v for c in candidates for k, v in c.tensors.items() if k.endswith("weight")]
        for leaf in leaves:
            leaf.requires_grad_()
        out = kernels.mixed_op(leaves[0], leaves[1], candidates, stride=2, impl="cpu")
        results.append([out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)
