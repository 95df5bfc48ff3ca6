"""Tests of whole cells by the Triton kernels; they are run like those in `triton_cases.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch
from helpers.candidates import candidates_of
from helpers.captured import capture
from helpers.launch_counter import count_launches
from helpers.reference_backend import nchw, nhwc
from helpers.triton_cases import (
    DEVICE,
    DTYPES,
    FLOAT32,
    HALF,
    ON_GPU,
    WIDE,
    PoisonedBackend,
    _seed,  # noqa: F401 - an autouse fixture
    assert_close,
)
from helpers.waits import Watch
from torch import Tensor

from hwnas.kernels import mixed_op, reference, weighted_norms
from hwnas.kernels.fused import FusedCell
from hwnas.kernels.plan import CellPlan, Edge, tensors_of
from hwnas.kernels.triton.backend import TritonBackend

CELLS = [
    ("darts", 9, (1, 7, 8), [(0, 1, 1)], FLOAT32),
    ("darts", 4, (1, 9, 6), [(0, 1, 2)], FLOAT32),
    ("nasbench201", 24, (1, 5, 6), [(0, 1, 1), (1, 2, 1)], FLOAT32),
    ("nasbench201", 9, (1, 7, 8), [(0, 1, 1)], HALF),
]
CELLS_ON_GPU = [(*cell[:4], dtype) for cell in CELLS for dtype in DTYPES]
LARGER_CELLS = [
    pytest.param(*cell, marks=pytest.mark.slow)
    for cell in [
        ("darts", 4, (2, 8, 8), [(s, t, 1) for t in (2, 3) for s in range(t)], FLOAT32),
        ("darts", 12, (2, 7, 8), [(0, 2, 2), (1, 2, 2), (2, 3, 1)], FLOAT32),
        ("darts", 36, (1, 9, 7), [(0, 1, 1)], FLOAT32),
        ("darts", 16, (2, 8, 8), [(0, 1, 1)], HALF),
        ("darts", 12, (2, 8, 9), [(0, 1, 2)], HALF),
        ("nasbench201", 16, (2, 8, 8), [(0, 1, 1), (0, 2, 1), (1, 2, 1)], HALF),
    ]
]


@pytest.mark.parametrize(
    "space,channels,size,edges,dtype",
    [*(CELLS_ON_GPU if ON_GPU else CELLS), *LARGER_CELLS],
)
def test_cells_against_autograd(space, channels, size, edges, dtype) -> None:
    """States, and gradients of inputs, mixing weights, and all parameters."""
    images, *image = size
    inputs = min(target for _, target, _ in edges)
    described = [
        Edge(s, t, candidates_of(space, channels, image, stride, WIDE)[1], stride)
        for s, t, stride in edges
    ]
    options = len(described[0].candidates)
    mixing = torch.softmax(torch.randn(len(edges), options, dtype=WIDE), dim=1)
    x = [torch.randn(images, channels, *image, dtype=WIDE) for _ in range(inputs)]
    found = by_kernels(described, x, mixing, dtype)
    exact, native = (by_autograd(described, x, mixing, dtype, kind) for kind in (WIDE, dtype))
    assert_close(found, exact, native, dtype)


def test_launches_of_a_whole_cell() -> None:
    """Packing, forward and backward pass of the DARTS cell of 14 edges.

    The number of launches does not depend on sizes. The kernels are not run, since a whole cell
    would take the interpreter minutes.
    """
    structure = [(s, t) for t in range(2, 6) for s in range(t)]
    edges = [Edge(s, t, candidates_of("darts", 16, (4, 4), 1)[1]) for s, t in structure]
    plan = CellPlan.of(CellPlan.describe(2, edges))
    parameters = [c.tensors[n].detach().to(DEVICE) for c, n in tensors_of(edges)[0]]
    states = [torch.zeros(1, 4, 4, 16, device=DEVICE) for _ in range(6)]
    mixing = torch.rand(14, 8, device=DEVICE)
    gradients = [torch.empty_like(p) for p in parameters]
    for _ in range(2):  # the first time copies tables to the device
        with count_launches(run=False) as forward:
            cell = FusedCell(plan, TritonBackend(), parameters, None)
            _, groups = cell.forward(states[:2], mixing)
        with count_launches(run=False) as backward:
            cell = FusedCell(plan, TritonBackend(), parameters, None)
            cell.backward(states, groups, mixing, states[2:], gradients, [True, True])
    assert forward.kernels + backward.kernels <= 40
    assert forward.total + backward.total <= 52, (forward.operators, backward.operators)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("space, width", [("darts", 16), ("nasbench201", 20)])
def test_a_warm_cell_waits_for_nothing(space, width, training) -> None:
    """What the first call copied to the device is kept there."""
    edges = [
        Edge(s, t, candidates_of(space, width, (side, side), stride)[1], stride)
        for s, t, stride, side in ((0, 2, 1, 4), (1, 2, 2, 8), (2, 3, 1, 4))
    ]
    plan = CellPlan.of(CellPlan.describe(2, edges))
    found, norms = tensors_of(edges)
    parameters = [c.tensors[n].detach().to(DEVICE, torch.float32) for c, n in found]
    running = None
    if not training:
        kept = [
            [c.tensors[f"{p}.running_{what}"].to(DEVICE, torch.float32) for c, p in norms]
            for what in ("mean", "var")
        ]
        running = kept[0], kept[1]
    backend = TritonBackend()
    padded = backend.width(width)
    states = [torch.zeros(1, size, size, padded, device=DEVICE) for size in (4, 8, 4, 4)]
    mixing = torch.rand(len(edges), len(edges[0].candidates), device=DEVICE)
    gradients = [torch.empty_like(p) for p in parameters]
    for _ in range(2):
        with Watch() as watch, count_launches(run=False) as launches:
            cell = FusedCell(plan, backend, parameters, running)
            _, groups = cell.forward(states[:2], mixing)
            cell = FusedCell(plan, backend, parameters, running)
            cell.backward(states, groups, mixing, states[2:], gradients, [True, True])
    assert launches.kernels > 0
    assert watch.found == {}


@pytest.mark.parametrize("space", [pytest.param("darts", marks=pytest.mark.slow), "nasbench201"])
def test_a_captured_cell_follows_new_values(space) -> None:
    """Launches that are made again on the same memory compute what a new evaluation does."""
    edges = [Edge(0, 1, candidates_of(space, 12, (4, 5), 1)[1])]
    plan = CellPlan.of(CellPlan.describe(1, edges))
    parameters = [c.tensors[n].detach().to(DEVICE) for c, n in tensors_of(edges)[0]]
    backend = TritonBackend()
    states = [torch.randn(1, 4, 5, 16, device=DEVICE) for _ in range(2)]
    mixing = torch.rand(1, len(edges[0].candidates), device=DEVICE)
    gradients = [torch.empty_like(p) for p in parameters]

    def evaluate() -> list[Tensor]:
        nodes, groups = FusedCell(plan, backend, parameters, None).forward(states[:1], mixing)
        cell = FusedCell(plan, backend, parameters, None)
        d_inputs, d_mixing = cell.backward(
            [states[0], *nodes], groups, mixing, states[1:], gradients, [True]
        )
        return [*nodes, *(d for d in d_inputs if d is not None), d_mixing]

    evaluate()  # what the first call copies to the device is kept
    with capture() as captured:
        found = evaluate()
    before = [t.clone() for t in found]
    for tensor in (*states, mixing, *parameters):
        tensor.copy_(torch.randn_like(tensor))
    captured.replay()
    replayed = [t.clone() for t in (*found, *gradients)]
    anew = [*evaluate(), *gradients]
    assert all(torch.equal(a, b) for a, b in zip(replayed, anew, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, anew, strict=False))


@pytest.mark.parametrize("recompute", ["nothing", "all"])
def test_mixed_op_agrees_with_plain_pytorch(recompute) -> None:
    """Outputs, gradients and running statistics."""
    results = []
    for impl in ("triton", "torch"):
        torch.manual_seed(0)
        _, candidates = candidates_of("nasbench201", 16, (5, 6), 1)
        x = torch.randn(2, 16, 5, 6).to(DEVICE).requires_grad_()
        weights = torch.rand(len(candidates)).to(DEVICE).requires_grad_()
        moved = [
            c._replace(tensors={k: v.detach().to(DEVICE) for k, v in c.tensors.items()})
            for c in candidates
        ]
        out = mixed_op(x, weights, moved, impl=impl, recompute=recompute)
        running = [v for c in moved for k, v in c.tensors.items() if "running" in k]
        results.append(
            [out.detach(), *torch.autograd.grad(out.sin().sum(), (x, weights)), *running]
        )
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "channels,dtype,message",
    [(8, WIDE, "no kernels for torch.float64"), (129, FLOAT32, "no kernels for 129 channels")],
)
def test_mixed_op_refuses_what_the_kernels_do_not_support(channels, dtype, message) -> None:
    x = torch.zeros(1, channels, 4, 4, device=DEVICE, dtype=dtype)
    with pytest.raises(RuntimeError, match=message):
        mixed_op(x, torch.ones(1), [reference.Candidate("skip_connect", {})], impl="triton")


@pytest.mark.parametrize("channels", [20, 129, 256])
def test_weighted_norms_agree_with_plain_pytorch(channels) -> None:
    """Also of wide layers, whose channels are divided into blocks."""
    results = []
    for impl in ("triton", "torch"):
        torch.manual_seed(0)
        branches = [torch.randn(2, channels, 4, 5).to(DEVICE).requires_grad_() for _ in range(3)]
        weights = torch.rand(3).to(DEVICE).requires_grad_()
        running, spread, scales, shifts = (
            [torch.rand(channels).to(DEVICE) for _ in range(3)] for _ in range(4)
        )
        affine = [t.requires_grad_() for t in (*scales, *shifts)]
        out = weighted_norms(branches, weights, running, spread, scales, shifts, impl=impl)
        leaves = (*branches, weights, *affine)
        results.append([out.detach(), *torch.autograd.grad(out.sin().sum(), leaves), *running])
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


def states_of(edges, x, mixing, parameters) -> list[Tensor]:
    """The states by the definition, with the given parameters instead of those of the edges."""
    listed, _ = tensors_of(edges)
    by_candidate: dict[int, dict[str, Tensor]] = {}
    for (candidate, name), tensor in zip(listed, parameters, strict=True):
        by_candidate.setdefault(id(candidate.tensors), {})[name] = tensor
    states = list(x)
    for target in sorted({e.target for e in edges}):
        total: Tensor | float = 0.0
        for i, edge in enumerate(edges):
            if edge.target == target:
                candidates = [
                    c._replace(tensors={k: v.to(x[0]) for k, v in c.tensors.items()}
                               | by_candidate.get(id(c.tensors), {}))
                    for c in edge.candidates
                ]  # fmt: skip
                context = reference.Context(edge.stride, True, 0.1)
                total = total + reference.mixed_op(
                    states[edge.source], mixing[i], candidates, range(len(candidates)), context
                )
        assert isinstance(total, Tensor)
        states.append(total)
    return states[len(x) :]


def rounded(tensors: Iterable[Tensor], dtype: torch.dtype, kind: torch.dtype) -> list[Tensor]:
    """Leaves of type `kind` whose values are rounded to `dtype`."""
    return [t.detach().to(DEVICE, dtype).to(kind).requires_grad_() for t in tensors]


def gradients_of(states: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s.shape, generator=generator, dtype=WIDE).to(s.device) for s in states]


def by_autograd(edges, x, mixing, dtype, kind) -> list[Tensor]:
    """States and gradients by plain PyTorch in type `kind`, from values rounded to `dtype`."""
    inputs = rounded(x, dtype, kind)
    (weights,) = rounded([mixing], FLOAT32, kind)
    parameters = rounded([c.tensors[n] for c, n in tensors_of(edges)[0]], dtype, kind)
    states = states_of(edges, inputs, weights, parameters)
    g = [t.to(dtype).to(kind) for t in gradients_of(states)]
    return [*states, *torch.autograd.grad(states, [*inputs, weights, *parameters], g)]


def by_kernels(edges, x, mixing, dtype) -> list[Tensor]:
    """States and gradients by the Triton kernels."""
    backend = PoisonedBackend()
    channels = x[0].shape[1]
    missing = backend.width(channels) - channels
    parameters = [c.tensors[n].detach().to(DEVICE, dtype) for c, n in tensors_of(edges)[0]]

    def padded(t: Tensor) -> Tensor:
        return torch.nn.functional.pad(nhwc(t), (0, missing)).to(DEVICE, dtype)

    plan = CellPlan.of(CellPlan.describe(len(x), edges))
    cell = FusedCell(plan, backend, parameters, None)
    inputs, weights = [padded(t) for t in x], mixing.to(DEVICE, FLOAT32)
    states, groups = cell.forward(inputs, weights)
    shown = [nchw(s)[:, :channels] for s in states]
    d_parameters = [torch.full_like(p, torch.nan) for p in parameters]
    d_inputs, d_weights = cell.backward(
        inputs + states, groups, weights, [padded(t) for t in gradients_of(shown)], d_parameters,
        [True] * len(x),
    )  # fmt: skip
    shown += [nchw(d)[:, :channels] for d in d_inputs if d is not None]
    return [*shown, d_weights, *d_parameters]
