"""The C++ kernels against float64 autograd, for every instruction set that this processor has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from helpers.cells import (
    DARTS_CELL,
    NASBENCH_CELL,
    REDUCTION_CELL,
    assert_as_exact_as_torch,
    closest_tie,
    make_cell,
    relative_error,
)
from helpers.reference_backend import ReferenceBackend
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hwnas.kernels import operator
from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.cpu.binding import UnavailableError
from hwnas.kernels.fused import FusedCell
from hwnas.kernels.operands import MixTerm, PoolGradient
from hwnas.kernels.plan import CellPlan, tensors_of

pytestmark = pytest.mark.usefixtures("needs_kernels")

CELLS = {
    "edge": ("darts", ((0, 1, 1),)),
    "strided edge": ("darts", ((0, 1, 2),)),
    "normal cell": ("darts", DARTS_CELL),
    "reduction cell": ("darts", REDUCTION_CELL),
    "nasbench201 cell": ("nasbench201", NASBENCH_CELL),
    "strided nasbench201 edge": ("nasbench201", ((0, 1, 2),)),
}


NEAR_TIE = 3e-6
"""Below this distance float32 may decide a ReLU or a maximum differently from float64."""


@pytest.mark.parametrize("channels,size", [(16, (8, 8)), (9, (7, 10)), (36, (5, 6)), (4, (9, 9))])
@pytest.mark.parametrize("cell", CELLS)
def test_float64_is_exact(cell, channels, size, instructions_of_float64) -> None:
    exact_in = make_cell(*CELLS[cell], 2, channels, size, seed=1, with_affine=True)
    exact = exact_in.evaluate("torch", torch.float64)
    found = exact_in.evaluate("cpu", torch.float64)
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    cell=st.sampled_from(sorted(CELLS)),
    images=st.integers(1, 3),
    channels=st.sampled_from([4, 8, 12, 16, 24, 32, 64]),
    height=st.integers(3, 11),
    width=st.integers(3, 11),
    mean=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 10**6),
)
def test_float32_is_as_exact_as_pytorch(
    instructions, cell, images, channels, height, width, mean, seed
) -> None:
    # Statistics of a few values amplify rounding errors in every implementation.
    assume(images * ((height + 1) // 2) * ((width + 1) // 2) >= 32)
    case = make_cell(*CELLS[cell], images, channels, (height, width), seed, mean=mean)
    with closest_tie() as gaps:
        exact = case.evaluate("torch", torch.float64)
    assume(min(gaps) > NEAR_TIE)
    plain = case.evaluate("torch", torch.float32)
    found = case.evaluate("cpu", torch.float32)
    assert_as_exact_as_torch(found, plain, exact)


@pytest.mark.parametrize("cell", ["edge", "strided edge"])
def test_a_large_mean_loses_no_accuracy(cell, instructions) -> None:
    case = make_cell(*CELLS[cell], 4, 16, (12, 12), seed=3, mean=100.0)
    exact = case.evaluate("torch", torch.float64)
    plain = case.evaluate("torch", torch.float32)
    found = case.evaluate("cpu", torch.float32)
    assert_as_exact_as_torch(found, plain, exact)


@pytest.mark.parametrize("threads", [1, 2])
def test_bitwise_repeatable(threads, instructions) -> None:
    case = make_cell(*CELLS["reduction cell"], 5, 16, (9, 8), seed=4)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (case.evaluate("cpu", torch.float32) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("cell", ["reduction cell", "nasbench201 cell"])
def test_more_threads_than_images(cell, images, instructions) -> None:
    """Rows or convolutions are divided where there are fewer images than threads."""
    case = make_cell(*CELLS[cell], images, 12, (23, 21), seed=5)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 7):
            torch.set_num_threads(threads)
            found.append(case.evaluate("cpu", torch.float32))
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        assert relative_error(found[1][name], value) < 1e-5, name


IN_FEWER_THREADS = """
import torch
from helpers.cells import REDUCTION_CELL, make_cell

case = make_cell("darts", REDUCTION_CELL, 7, 12, (9, 8), seed=6)
torch.set_num_threads(1)
alone = case.evaluate("cpu", torch.float32)
torch.set_num_threads(7)
found = case.evaluate("cpu", torch.float32)
assert all(torch.equal(found[name], value) for name, value in alone.items())
"""


def test_openmp_may_start_fewer_threads_than_it_is_asked_for() -> None:
    environment = os.environ | {"OMP_THREAD_LIMIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", IN_FEWER_THREADS], env=environment, check=True)


@pytest.mark.parametrize("recompute", ["first", "all"])
def test_recomputing_changes_no_bit(recompute, instructions) -> None:
    case = make_cell(*CELLS["normal cell"], 2, 12, (8, 7), seed=5)
    kept = case.evaluate("cpu", torch.float32)
    again = case.evaluate("cpu", torch.float32, recompute=recompute)
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize("channels", [6, 20])
@pytest.mark.parametrize("cell", CELLS)
def test_each_kernel_alone(cell, channels, instructions) -> None:
    """Methods of the backend, one by one, against plain PyTorch; padded channels stay zero."""
    space, structure = CELLS[cell]
    case = make_cell(space, structure, 2, channels, (7, 6), seed=6)
    plan = CellPlan.of(CellPlan.describe(len(case.inputs), case.edges))
    parameters = [c.tensors[n].detach().float() for c, n in tensors_of(case.edges)[0]]
    mine = operator.backend_for("cpu", torch.float32)
    width = mine.width(channels)
    oracle = ReferenceBackend(width)
    state = operator.to_layout(case.inputs[0].float(), width)

    def assert_close(found: torch.Tensor, exact: torch.Tensor) -> None:
        torch.testing.assert_close(found, exact.to(found.dtype), rtol=1e-4, atol=1e-4)

    group = plan.groups[0]
    arguments = (state.unsqueeze(0), None, group.first, parameters)
    outputs, statistics = mine.convolve(*arguments)
    expected, expected_statistics = oracle.convolve(*arguments)
    assert_close(outputs, expected)
    assert_close(statistics, expected_statistics)
    assert (outputs[..., channels:] == 0).all()
    pools, plain = mine.pools(state, group.stride), oracle.pools(state, group.stride)
    assert_close(pools.statistics, plain.statistics)
    row = torch.randn(6, width)
    weights = torch.rand(4)
    gradient = torch.randn_like(plain.maximum)
    found, exact = (
        [MixTerm(values.mean, row, 2), MixTerm(values.maximum, row, 0), MixTerm(z[0], row, 1)]
        for values, z in ((pools, outputs), (plain, expected))
    )
    assert_close(mine.mix(found, weights), oracle.mix(exact, weights))
    assert_close(
        mine.reduce([(gradient, term.value, row) for term in found]),
        oracle.reduce([(gradient, term.value, row) for term in exact]),
    )
    coefficients = torch.randn(3, width)
    edges = [PoolGradient(gradient, (coefficients, row), (coefficients, row), None)]
    handed = torch.zeros_like(state), torch.zeros_like(state)
    for backend, dx in zip((mine, oracle), handed, strict=True):
        backend.pools_backward(state, group.stride, edges, dx)
    assert_close(*handed)


@pytest.mark.parametrize("size", [(8, 8), (7, 6), (1, 5), (4, 1), (2, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_pools_go_to_the_first_of_equal_pixels(stride, size, instructions) -> None:
    """As in PyTorch, whose order is that of rows and columns."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randint(3, (2, *size, 16), generator=generator).float()
    mine, oracle = operator.backend_for("cpu", torch.float32), ReferenceBackend(16)
    shape = oracle.pools(x, stride).maximum.shape
    gradients = [torch.randn(shape, generator=generator) for _ in range(2)]
    row, coefficients = (torch.randn(rows, 16, generator=generator) for rows in (6, 3))
    skip = coefficients if stride == 1 else None
    edges = [
        PoolGradient(gradients[0], (coefficients, row), None, skip),
        PoolGradient(gradients[1], (coefficients, row), (coefficients, row), None),
    ]
    handed = x.clone(), x.clone()
    for backend, dx in zip((mine, oracle), handed, strict=True):
        backend.pools_backward(x, stride, edges, dx)
    torch.testing.assert_close(*handed, rtol=1e-5, atol=1e-5)


def test_fused_cell_with_the_reference_backend() -> None:
    case = make_cell("darts", DARTS_CELL, 2, 4, (6, 7), seed=7)
    exact = case.evaluate("torch", torch.float64)
    plan = CellPlan.of(CellPlan.describe(2, case.edges))
    parameters = [c.tensors[n].detach() for c, n in tensors_of(case.edges)[0]]
    cell = FusedCell(plan, ReferenceBackend(), parameters, None)
    inputs = [operator.to_layout(x, 4) for x in case.inputs]
    nodes, groups = cell.forward(inputs, case.weights)
    gradients = [torch.full(p.shape, torch.nan, dtype=p.dtype) for p in parameters]
    d_inputs, d_weights = cell.backward(
        inputs + nodes, groups, case.weights, [operator.to_layout(g, 4) for g in case.gradients],
        gradients, [True, True],
    )  # fmt: skip
    for i, (node, d_input) in enumerate(zip(nodes, d_inputs, strict=False)):
        torch.testing.assert_close(operator.from_layout(node, 4), exact[f"node{i}"])
        torch.testing.assert_close(operator.from_layout(d_input, 4), exact[f"d_input{i}"])
    torch.testing.assert_close(d_weights, exact["d_weights"])


def test_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(UnavailableError, match="instruction set 'sse9' is not one of"):
        CpuBackend(torch.float32, "sse9")
