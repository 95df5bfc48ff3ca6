"""Tests of the Triton kernels; `tests/kernels/triton/test_interpreter.py` runs this file.

With TRITON_INTERPRET=1 the kernels run in Triton's interpreter on the CPU, else on a GPU. All
results are compared with float64; errors may be a few times those of plain PyTorch in the same
type. The memory that kernels write to is filled with NaN before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
import torch
from helpers.launch_counter import count_launches
from helpers.reference_backend import ReferenceBackend
from torch import Tensor

from hwnas.kernels.norms import MEAN, SCALE, SHIFT, TABLE_ROWS
from hwnas.kernels.operands import MixTerm, NormTerms, PoolGradient, StageBackward, TableRows
from hwnas.kernels.plan import Convolution, Norm
from hwnas.kernels.triton.backend import TritonBackend
from hwnas.kernels.triton.launch import interpreted
from hwnas.kernels.triton.layout import fits, padded_width

ON_GPU = not interpreted()
DEVICE = "cuda" if ON_GPU else "cpu"
SLACK = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
FLOAT32, HALF, WIDE = torch.float32, torch.float16, torch.float64
DTYPES = [FLOAT32, HALF] if interpreted() else [FLOAT32, HALF, torch.bfloat16]
"""The interpreter rounds bfloat16 wrongly."""


class PoisonedBackend(TritonBackend):
    """Fills new tensors with NaN, or 77 for integers, so that unwritten elements are found."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        poison = float("nan") if dtype.is_floating_point else 77
        return torch.full(tuple(shape), poison, dtype=dtype, device=device)


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(len(request.node.name))


def values_of(*shape: int, channels: int, dtype: torch.dtype) -> Tensor:
    """Random values; those after the first `channels` channels are zero."""
    x = torch.randn(shape)
    x[..., channels:] = 0
    return x.to(DEVICE, dtype)


def table_of(rows: int, width: int, channels: int) -> Tensor:
    """A table with random means, scales and shifts; padded channels are zero."""
    table = torch.zeros(rows, TABLE_ROWS, width)
    table[:, :, :channels] = torch.rand(rows, TABLE_ROWS, channels) + 0.5
    table[:, SHIFT, :channels] -= 1.0
    table[:, MEAN, :channels] -= 0.5
    return table.to(DEVICE)


def widened(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [t.to(WIDE) for t in tensors]


def error(mine: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm; infinite where a NaN is left."""
    difference = (mine.to(WIDE) - exact).norm() / exact.norm().clamp_min(1e-30)
    return difference.item() if torch.isfinite(mine).all() else float("inf")


def assert_close(
    mine: Iterable[Tensor], exact: Iterable[Tensor], native: Iterable[Tensor], dtype: torch.dtype
) -> None:
    """Check that errors are at most four times PyTorch's own (`native`), plus `SLACK`."""
    for i, (a, b, c) in enumerate(zip(mine, exact, native, strict=True)):
        allowed = 4 * error(c, b) + SLACK[dtype]
        assert error(a, b) <= allowed, f"tensor {i}: {error(a, b):.1e} > {allowed:.1e}"


def separable(size: int, dilation: int, stride: int, first: int, reads: int | None = None):
    norm = Norm(0, None, None)
    return Convolution("separable", size, dilation, stride, (first, first + 1), norm, reads)


def single(kind: str, size: int, stride: int, weights: tuple[int, ...]) -> Convolution:
    return Convolution(kind, size, 1, stride, weights, Norm(0, None, None))


STAGES = {
    "darts": lambda: [separable(3, 1, 1, 0), separable(5, 2, 1, 2)],
    "reduction": lambda: [
        separable(3, 2, 2, 0), single("factorized", 1, 2, (2, 3)), separable(5, 1, 2, 4)
    ],
    "nasbench201": lambda: [single("dense", 1, 1, (0,)), single("dense", 3, 1, (1,))],
    "second": lambda: [separable(5, 1, 1, 0, reads=2), separable(3, 1, 1, 2, reads=0)],
}  # fmt: skip


def weights_of(convolutions: Sequence[Convolution], channels: int) -> list[Tensor]:
    """Random weights of a stage, in the order of their positions."""
    weights: dict[int, Tensor] = {}
    for c in convolutions:
        shapes = {
            "separable": [(channels, 1, c.kernel, c.kernel), (channels, channels, 1, 1)],
            "dense": [(channels, channels, c.kernel, c.kernel)],
            "factorized": [(channels // 2, channels, 1, 1), (channels - channels // 2, channels,
                                                             1, 1)],
        }[c.kind]  # fmt: skip
        for position, shape in zip(c.weights, shapes, strict=True):
            fan_in = shape[1] * shape[2] * shape[3]
            weights[position] = torch.randn(shape, device=DEVICE) / fan_in**0.5
    return [weights[i] for i in sorted(weights)]


def rows_of(count: int, like: Tensor) -> TableRows:
    """Rows to fill from the first `count` statistics, in order, for values like `like`."""
    kind = WIDE if like.dtype == WIDE else FLOAT32
    out = torch.full((count, TABLE_ROWS, like.shape[-1]), torch.nan, dtype=kind, device=DEVICE)
    return TableRows([Norm(0, None, None)] * count, range(count), out)


def normalised(table: Tensor, values: Tensor) -> Tensor:
    """Values (R, N, H, W, C) normalised by the rows of a table."""
    t = table[:, :, None, None, None]
    return t[:, SCALE] * (values.to(table.dtype) - t[:, MEAN]) + t[:, SHIFT]


FEW_DTYPES = DTYPES if ON_GPU else [FLOAT32]
CASES = [
    pytest.param(*case, dtype)
    for case, dtypes in [
        (("darts", (1, 9, 8), 9), FEW_DTYPES), (("reduction", (2, 7, 6), 12), DTYPES),
        (("nasbench201", (1, 9, 7), 24), DTYPES), (("second", (2, 5, 7), 4), FEW_DTYPES),
    ]
    for dtype in dtypes
] + [
    pytest.param(*case, dtype, marks=pytest.mark.slow)
    for case in [
        ("darts", (3, 11, 7), 36), ("reduction", (1, 8, 9), 64), ("nasbench201", (2, 8, 8), 16),
        ("second", (1, 9, 7), 32), ("nasbench201", (1, 5, 3), 96), ("darts", (1, 4, 4), 128),
    ]
    for dtype in DTYPES
]  # fmt: skip


def stage_of(stage: str, size: tuple[int, ...], channels: int, dtype: torch.dtype):
    """Values, table, convolutions and weights."""
    convolutions = STAGES[stage]()
    width = TritonBackend().width(channels)
    count = 3 if stage == "second" else 1
    values = values_of(count, *size, width, channels=channels, dtype=dtype)
    table = table_of(count, width, channels) if stage == "second" else None
    return values, table, convolutions, weights_of(convolutions, channels)


def wide_or_none(table: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if table is None else table.to(dtype)


@pytest.mark.parametrize("stage,size,channels,dtype", CASES)
def test_convolutions_and_their_statistics(stage, size, channels, dtype) -> None:
    values, table, convolutions, weights = stage_of(stage, size, channels, dtype)
    results = []
    for backend, wide in (
        (PoisonedBackend(), None), (ReferenceBackend(), WIDE), (ReferenceBackend(), dtype)
    ):  # fmt: skip
        kind = wide or dtype
        parameters = weights if wide is None else [w.to(dtype).to(kind) for w in weights]
        filled = rows_of(len(convolutions), values.to(kind))
        y = backend.stage_forward(
            values.to(kind), table if wide is None else wide_or_none(table, kind), convolutions,
            parameters, filled,
        )  # fmt: skip
        results.append((y, normalised(filled.out, y)[..., :channels]))
    assert (results[0][0][..., channels:] == 0).all()
    assert_close(*results, dtype)


@pytest.mark.parametrize("stage,size,channels,dtype", CASES)
def test_gradients_of_convolutions(stage, size, channels, dtype) -> None:
    check_gradients_of_convolutions(stage, size, channels, dtype, batch=True)


def test_gradients_of_norms_with_running_statistics() -> None:
    check_gradients_of_convolutions("second", (1, 4, 5), 4, FLOAT32, batch=False)


def check_gradients_of_convolutions(stage, size, channels, dtype, *, batch: bool) -> None:
    """With a table also those of its norms, whose statistics are the batch's own if `batch`."""
    values, table, convolutions, weights = stage_of(stage, size, channels, dtype)
    outputs, _ = TritonBackend().convolve(values, table, convolutions, weights)
    width, count = outputs.shape[-1], len(convolutions)
    g = [values_of(*outputs.shape[1:], channels=channels, dtype=dtype) for _ in convolutions]
    coefficients = list(table_of(count, width, channels)[:, :3])
    rows = list(table_of(count, width, channels))
    results = []
    for backend, kind in (
        (PoisonedBackend(), dtype), (ReferenceBackend(), WIDE), (ReferenceBackend(), dtype)
    ):  # fmt: skip
        mine = isinstance(backend, TritonBackend)
        small = [None if t is None else t if mine else t.to(kind) for t in (table, *coefficients,
                                                                             *rows)]  # fmt: skip
        parameters = weights if mine else [w.to(dtype).to(kind) for w in weights]
        d_weights = [torch.full_like(w, torch.nan) for w in parameters]
        stage_backward = StageBackward(
            convolutions, parameters, outputs.to(kind), [t.to(kind) for t in g],
            small[1 : 1 + count], small[1 + count :], d_weights,
        )  # fmt: skip
        read = sorted({c.reads or 0 for c in convolutions})
        of_norms = []
        if table is None:
            d_values, _ = backend.convolve_backward(
                values.to(kind), None, stage_backward, needs_input=True
            )
        else:
            norms = NormTerms(small[0], read, values[0].numel() // width, [batch] * len(read))
            d_values, found = backend.stage_backward(values.to(kind), stage_backward, norms)
            of_norms = [found.coefficients, found.d_gamma, found.d_beta]
        results.append((d_values[read], *of_norms, *d_weights))
    assert_close(*results, dtype)


def test_only_what_is_needed_is_computed() -> None:
    values, table, convolutions, weights = stage_of("darts", (1, 5, 6), 4, FLOAT32)
    backend = PoisonedBackend()
    outputs, _ = backend.convolve(values, table, convolutions, weights)
    g = [torch.randn_like(outputs[0])] * 2
    rows = list(table_of(2, 16, 4))
    coefficients = [r[:3] for r in rows]

    def backward(d_weights, needs_input):
        stage = StageBackward(convolutions, weights, outputs, g, coefficients, rows, d_weights)
        return backend.convolve_backward(values, None, stage, needs_input=needs_input)

    kept = [torch.zeros_like(w) for w in weights]
    with count_launches() as nothing:
        assert backward([None] * 4, False) == (None, None)
    assert nothing.total == 0
    assert backward([kept[0], None, None, kept[3]], False) == (None, None)
    assert kept[0].any()
    assert kept[3].any()
    full = [torch.zeros_like(w) for w in weights]
    d_values, _ = backward(full, True)
    assert torch.equal(full[0], kept[0])
    assert torch.equal(full[3], kept[3])
    only, _ = backward([None] * 4, True)
    assert torch.equal(only, d_values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size,channels,stride", [((2, 5, 7), 9, 1), ((1, 9, 8), 16, 2)])
def test_pools_and_their_gradients(size, channels, stride, dtype) -> None:
    """Values are integers, so that many windows have several maxima."""
    x = values_of(*size, 16, channels=channels, dtype=dtype).mul(2).round()
    coefficients, table = table_of(4, 16, channels)[:, :3], table_of(4, 16, channels)
    shape = (size[0], -(-size[1] // stride), -(-size[2] // stride), 16)
    g = [values_of(*shape, channels=channels, dtype=dtype) for _ in range(3)]
    before = values_of(*size, 16, channels=channels, dtype=dtype)
    results = []
    for backend, kind in (
        (PoisonedBackend(), dtype), (ReferenceBackend(), WIDE), (ReferenceBackend(), dtype)
    ):  # fmt: skip
        small = FLOAT32 if isinstance(backend, TritonBackend) else kind
        pools = backend.pools(x.to(kind), stride)
        a, t = coefficients.to(small), table.to(small)
        edges = [
            PoolGradient(g[0].to(kind), (a[0], t[0]), (a[1], t[1]), None),
            PoolGradient(g[1].to(kind), None, (a[2], t[2]), a[3] if stride == 1 else None),
            PoolGradient(g[2].to(kind), (a[3], t[3]), None, None),
        ]
        values = backend.pool_values(x.to(kind), stride)
        reduced = backend.reduce([(g[0].to(kind), v, t[0]) for v in values[:2]])
        filled = rows_of(2, x.to(kind))
        backend.source_forward(x.to(kind), stride, (), (), True, filled)
        dx = before.to(kind).clone()
        backend.pools_backward(x.to(kind), stride, edges, dx)
        both = torch.stack((pools.maximum, pools.mean))
        results.append(
            (both, normalised(filled.out, both)[..., :channels], pools.statistics, reduced, dx)
        )
    assert torch.equal(results[0][0][0].to(WIDE), results[1][0][0])
    assert_close(*results, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mix_and_the_sums_of_its_terms(dtype) -> None:
    z = [values_of(3, 5, 7, 32, channels=24, dtype=dtype) for _ in range(5)]
    g = values_of(3, 5, 7, 32, channels=24, dtype=dtype)
    table, weights = table_of(5, 32, 24), torch.rand(9, device=DEVICE)
    chosen = [4, 0, 8, 3, 1]
    results = []
    for backend, kind in (
        (PoisonedBackend(), dtype), (ReferenceBackend(), WIDE), (ReferenceBackend(), dtype)
    ):  # fmt: skip
        small = FLOAT32 if isinstance(backend, TritonBackend) else kind
        t, w = table.to(small), weights.to(small)
        values = [v.to(kind) for v in z]
        mixed = backend.mix(
            [MixTerm(v, row, i) for v, row, i in zip(values, t, chosen, strict=True)], w
        )
        sums = backend.reduce([(g.to(kind), v, row) for v, row in zip(values, t, strict=True)])
        of_terms = torch.zeros_like(w)
        norms = NormTerms(t, [3, 1, 4, 0, 2], 105, [True, True, False, True, True], w, chosen,
                          of_terms)  # fmt: skip
        found = backend.reduce_terms([(g.to(kind), values[row]) for row in norms.rows], norms)
        assert found.d_weights is of_terms
        results.append((mixed, sums, *found))
    assert_close(*results, dtype)


@pytest.mark.parametrize("affine", [False, True])
def test_statistics_of_values_with_a_large_mean(affine) -> None:
    x = torch.randn(2, 9, 8, 16, dtype=WIDE, device=DEVICE).mul(0.1).add(10).float()
    norms = [Norm(0, 0, 1) if affine else Norm(0, None, None), Norm(1, None, None)]
    parameters = [torch.rand(9, device=DEVICE) for _ in range(2)]
    results = []
    for backend, kind in (
        (PoisonedBackend(), FLOAT32), (ReferenceBackend(), WIDE), (ReferenceBackend(), FLOAT32)
    ):  # fmt: skip
        filled = rows_of(2, x.to(kind))._replace(norms=norms)
        pools, _ = backend.source_forward(x.to(kind), 1, (), parameters, True, filled)
        both = torch.stack((pools.maximum, pools.mean))
        shown = slice(9 if affine else None)  # of others the reference scales by one, we by zero
        results.append((normalised(filled.out, both)[..., shown], filled.out[:, 3:5]))
    assert_close(*results, FLOAT32)


def test_table_from_the_statistics_of_a_batch_and_from_running_ones() -> None:
    """The last row is the identity's."""
    backend = PoisonedBackend()
    x = values_of(2, 5, 7, 16, channels=9, dtype=FLOAT32)
    tables = torch.full((2, 3, TABLE_ROWS, 16), torch.nan, device=DEVICE)
    norms = [Norm(0, None, None)] * 2
    pools, _ = backend.source_forward(x, 1, (), (), True, TableRows(norms, [1, 0, -1], tables[0]))
    both = torch.stack((pools.mean, pools.maximum)).flatten(1, 3)
    running = torch.stack((both.mean(1), both.var(1, unbiased=False)), dim=1)
    backend.normalise(running, [None] * 2, [None] * 2, tables[1], [0, 1, -1])
    torch.testing.assert_close(tables[0, :, :5], tables[1, :, :5], rtol=1e-4, atol=1e-5)
    tables[0, 2] = torch.nan
    pools, outputs = backend.source_forward(x, 1, (), (), False, TableRows([], [-1], tables[0, 2:]))
    assert pools is None
    assert outputs is None
    identity = torch.tensor([0.0, 1, 0, 1, 0, 0], device=DEVICE)
    assert torch.equal(tables[:, 2], identity[None, :, None].expand(2, 6, 16))


def test_results_are_bitwise_repeatable() -> None:
    runs = []
    values, table, convolutions, weights = stage_of("nasbench201", (1, 9, 8), 16, FLOAT32)
    g = [torch.randn_like(values[0])] * 2
    rows = list(table_of(2, 16, 16))
    for _ in range(2):
        backend = PoisonedBackend()
        filled = rows_of(len(convolutions), values)
        outputs = backend.stage_forward(values, table, convolutions, weights, filled)
        kept = [torch.zeros_like(w) for w in weights]
        stage = StageBackward(convolutions, weights, outputs, g, [r[:3] for r in rows], rows, kept)
        d_values, _ = backend.convolve_backward(values, None, stage, needs_input=True)
        sums = backend.reduce([(g[0], values[0], rows[0])])
        runs.append((outputs, filled.out, d_values, sums, *kept))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_state_takes_one_launch_forward_and_two_backward() -> None:
    values, _, convolutions, weights = stage_of("darts", (1, 4, 4), 4, FLOAT32)
    backend = TritonBackend()
    rows = list(table_of(2, 16, 4))
    g = torch.randn_like(values[0])
    edges = [PoolGradient(g, (rows[0][:3], rows[0]), (rows[1][:3], rows[1]), rows[0][0])]
    for _ in range(2):  # the first time copies tables to the device
        with count_launches() as forward:
            _, outputs = backend.source_forward(values[0], 1, convolutions, weights, True)
        stage = StageBackward(
            convolutions, weights, outputs, [g, g], [r[:3] for r in rows], rows, [None] * 4
        )
        with count_launches() as backward:
            dx = backend.source_backward(values[0], 1, stage, edges, values[0], needs_input=True)
    assert dx is not None
    assert torch.isfinite(dx).all()
    assert (forward.kernels, backward.kernels) == (1, 2)
    # The weights are packed in each call unless `pack` has been called.
    assert forward.operators == backward.operators == {"aten::cat": 1, "aten::index_select": 1}


@pytest.mark.skipif(not ON_GPU, reason="the interpreter multiplies exactly")
def test_tf32_products_are_as_exact_as_tf32() -> None:
    values, table, convolutions, weights = stage_of("darts", (2, 8, 8), 16, FLOAT32)
    exact, _ = ReferenceBackend().convolve(
        values.to(WIDE), wide_or_none(table, WIDE), convolutions, widened(weights)
    )
    outputs, _ = TritonBackend("tf32").convolve(values, table, convolutions, weights)
    assert error(outputs, exact) < 2e-3


def test_unsupported_sizes_and_precisions_are_refused() -> None:
    assert fits(128, 1000)
    assert not fits(64, 2**25)
    assert fits(1280, 1000, convolutions=False)
    assert not fits(1280, 2**21, convolutions=False)
    assert [TritonBackend().width(c) for c in (5, 40, 128, 129, 960)] == [16, 64, 128, 144, 960]
    with pytest.raises(ValueError, match="129 channels"):
        padded_width(129)
    with pytest.raises(ValueError, match="precision"):
        TritonBackend("fast")
