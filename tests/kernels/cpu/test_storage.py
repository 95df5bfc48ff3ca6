"""Outputs of convolutions that are stored in bfloat16 (`storage="bfloat16"`)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache

import pytest
import torch
from helpers.cells import DARTS_CELL, NASBENCH_CELL, REDUCTION_CELL, make_cell, relative_error
from helpers.dispatched import OperatorsAreSeen
from helpers.saved_memory import saved_bytes
from torch import Tensor

from hwnas import kernels
from hwnas.kernels import operator, reference
from hwnas.kernels.cpu.binding import LANES, convolution_array, load_library, vectors
from hwnas.kernels.cpu.structures import Shape
from hwnas.kernels.plan import Convolution, Norm

pytestmark = pytest.mark.usefixtures("needs_kernels")

EDGE = ((0, 1, 1),)
CASES = {
    "normal cell": ("darts", DARTS_CELL, 3, 24, (5, 8)),
    "reduction cell": ("darts", REDUCTION_CELL, 3, 8, (7, 10)),
    "nasbench201 cell": ("nasbench201", NASBENCH_CELL, 3, 9, (6, 7)),
    "strided edge": ("darts", ((0, 1, 2),), 3, 16, (9, 6)),
}


@contextmanager
def rounded_reference() -> Iterator[None]:
    """Let plain PyTorch round the outputs of convolutions, and take gradients as if it did not.

    As in the kernels, statistics are those of the outputs before they are rounded.
    """
    plain = reference.batch_norm

    def batch_norm(
        z: Tensor, tensors: Mapping[str, Tensor], prefix: str, context: reference.Context
    ) -> Tensor:
        if all(name.startswith("bn.") for name in tensors):  # a pool
            return plain(z, tensors, prefix, context)
        rounded = z + (z.detach().bfloat16().to(z.dtype) - z.detach())
        if context.training:
            plain(z.detach(), tensors, prefix, context)
            variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        else:
            mean, variance = (tensors[f"{prefix}.running_{what}"] for what in ("mean", "var"))
        scale = tensors[f"{prefix}.weight"] / (variance + reference.BATCH_NORM_EPS).sqrt()
        centred = rounded - mean[:, None, None]
        return centred * scale[:, None, None] + tensors[f"{prefix}.bias"][:, None, None]

    reference.batch_norm = batch_norm
    try:
        yield
    finally:
        reference.batch_norm = plain


@cache
def expected(case: str, training: bool, rounds: bool) -> dict[str, Tensor]:
    """What plain PyTorch computes in float64."""
    with rounded_reference() if rounds else nullcontext():
        made = make_cell(*CASES[case], seed=1, with_affine=True)
        return made.evaluate("torch", torch.float64, training=training)


def bits(*values: int) -> Tensor:
    """Floats, by their bits."""
    return torch.tensor(values, dtype=torch.uint32).view(torch.float32)


def rounded(values: Tensor, weight: float, lanes: int) -> Tensor:
    """What a 1x1 convolution of one channel stores, from the first of `lanes` channels."""
    x = torch.zeros(1, 1, len(values), lanes)
    x[..., 0] = values
    shape = Shape(
        images=1, height=1, width_px=len(values), out_height=1, out_width=len(values), channels=1,
        width=lanes, lanes=lanes, threads=1, short_stages=1,
    )  # fmt: skip
    convolution = Convolution("dense", 1, 1, 1, (0,), Norm(0, None, None))
    weights = [torch.full((1, 1, 1, 1), weight)]
    outputs = torch.zeros(x.shape, dtype=torch.bfloat16)
    statistics = torch.zeros(2, lanes, dtype=torch.float64)
    instructions = operator.backend_for("cpu", torch.float32).instructions
    status = getattr(load_library(), f"hwnas_convolve_{instructions}")(
        ctypes.byref(shape), vectors(x, shape), None, 1,
        convolution_array([convolution], weights, torch.float32), outputs.data_ptr(),
        statistics.data_ptr(),
    )  # fmt: skip
    assert status == 0
    return outputs[0, 0, :, 0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_are_rounded_as_pytorch_rounds_them(sign, instructions) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2**31, (4000,), generator=generator).to(torch.int32)
    halves = torch.randint(2**15, (2000,), generator=generator).to(torch.int32) << 16
    values = torch.cat([
        bits(0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FFFFF, 0x800000),  # subnormals
        bits(0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x3FFF8000),  # ties, and beside them
        bits(0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000),  # up to infinity
        bits(0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF),  # NaN
        drawn.view(torch.float32), (halves | 0x8000).view(torch.float32),
    ])  # fmt: skip
    right = (sign * values.relu()).bfloat16()
    found = [rounded(values, sign, lanes) for lanes in LANES[torch.float32][instructions]]
    for one in found:
        torch.testing.assert_close(one, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_only_the_outputs_of_convolutions_are_rounded(case, training, instructions) -> None:
    """Everything else is as exact as float32, where no output is near a tie of its rounding."""
    made = make_cell(*CASES[case], seed=1, with_affine=True)
    found = made.evaluate("cpu", torch.float32, training=training, storage="bfloat16")
    for name, value in expected(case, training, True).items():
        error = relative_error(found[name], value)
        assert error < 5e-3, f"{name}: error {error:.1e}"
    for name, value in expected(case, training, False).items():
        if name.startswith("node"):
            assert 3e-5 < relative_error(found[name], value) < 1e-2, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recompute", ["first", "all"])
def test_recomputed_outputs_are_rounded_too(case, training, recompute, instructions) -> None:
    made = make_cell(*CASES[case], seed=1)
    settings = {"training": training, "storage": "bfloat16"}
    kept = made.evaluate("cpu", torch.float32, **settings)
    again = made.evaluate("cpu", torch.float32, recompute=recompute, **settings)
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name


def test_more_threads_than_images(instructions) -> None:
    made = make_cell("darts", REDUCTION_CELL, 1, 12, (23, 21), seed=5)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 7):
            torch.set_num_threads(threads)
            found.append(made.evaluate("cpu", torch.float32, storage="bfloat16"))
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        assert relative_error(found[1][name], value) < 5e-3, name


@pytest.mark.parametrize("recompute, outputs", [("nothing", 6), ("first", 2), ("all", 0)])
def test_outputs_of_convolutions_take_half_the_memory(recompute, outputs) -> None:
    """Those of four first and two second stages of an edge, as far as they are kept."""
    made = make_cell("darts", EDGE, 4, 16, (8, 8), seed=2)
    (x,), weights = made.inputs, made.weights.float().requires_grad_()
    x = x.float()
    edges = [made.edges[0]._replace(candidates=[
        c._replace(tensors={n: t.detach().float() for n, t in c.tensors.items()})
        for c in made.edges[0].candidates
    ])]  # fmt: skip

    def saved(storage: str) -> int:
        arguments = {"impl": "cpu", "recompute": recompute, "storage": storage}
        return saved_bytes(lambda: kernels.mixed_cell([x], weights, edges, **arguments)[0])

    assert saved("exact") - saved("bfloat16") == outputs * x.numel() * 2


@pytest.mark.parametrize("where", ["torch", "float64", "operator"])
def test_nothing_is_rounded_elsewhere(where) -> None:
    made = make_cell("darts", REDUCTION_CELL, 2, 6, (6, 5), seed=3)
    impl = "torch" if where == "torch" else "cpu"
    dtype = torch.float64 if where == "float64" else torch.float32
    results = []
    for storage in ("exact", "bfloat16"):
        with OperatorsAreSeen() if where == "operator" else nullcontext():
            results.append(made.evaluate(impl, dtype, storage=storage))
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_rounded_without_gradients(training) -> None:
    made = make_cell("darts", DARTS_CELL, 2, 6, (6, 5), seed=4)
    exact = made.evaluate("cpu", torch.float32, training=training)
    inputs, weights = [x.float() for x in made.inputs], made.weights.float()
    with torch.no_grad():
        nodes = kernels.mixed_cell(
            inputs, weights, made.edges, training=training, impl="cpu", storage="bfloat16"
        )
    for i, node in enumerate(nodes):
        assert torch.equal(node, exact[f"node{i}"]), i
