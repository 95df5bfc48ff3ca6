"""Programs of Triton's kernels: the memory of a pass, and the addresses that are passed.

That they compute what the kernels one by one compute is tested in Triton's interpreter
(`tests/helpers/triton_program_cases.py`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.candidates import candidates_of
from torch import Tensor

pytest.importorskip("triton")

from hwnas.kernels.plan import CellPlan, Edge
from hwnas.kernels.triton import cell as programs
from hwnas.kernels.triton.launch import TritonLauncher
from hwnas.kernels.triton.program import Region, _moved, arranged

NONE, SKIP, CONVOLUTION, _, POOL = range(5)
"""Candidates of NAS-Bench-201."""


def test_memory_in_use_at_once_does_not_overlap(rng) -> None:
    regions = []
    for _ in range(60):
        first, length = rng.integers(40), rng.integers(8)
        size = int(rng.integers(1, 3000))
        regions.append(Region(torch.empty(size, dtype=torch.uint8), first, first + length))
    offsets, total = arranged(regions)
    for i, (a, at) in enumerate(zip(regions, offsets, strict=True)):
        assert at % 256 == 0
        assert at + a.size <= total
        for b, other in zip(regions[:i], offsets[:i], strict=True):
            together = a.first <= b.last and b.first <= a.last
            assert not together or at + a.size <= other or other + b.size <= at
    assert total < sum(region.size for region in regions) / 2
    assert arranged([]) == ([], 0)


@pytest.mark.parametrize(
    "active, is_program",
    [
        ((NONE, CONVOLUTION), True),
        ((SKIP, CONVOLUTION), False),
        ((POOL, CONVOLUTION), True),
        ((POOL, SKIP), False),
        ((NONE, NONE), False),
    ],
)
def test_a_program_has_every_step_of_a_pass(active, is_program) -> None:
    """A state that only the identity reads takes no launch: PyTorch computes its part."""
    candidates = candidates_of("nasbench201", 16, (4, 4), 1)[1]
    edges = [Edge(i, 2, candidates, active=(k,)) for i, k in enumerate(active)]
    assert programs.suits(CellPlan.of(CellPlan.describe(2, edges))) is is_program


def addresses_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data_ptr()
    return tuple(map(addresses_of, value)) if isinstance(value, tuple) else value


def test_launches_get_the_addresses_of_the_tensors(monkeypatch) -> None:
    """Every argument of every launch of a cell, forward and backward; no kernel is run."""

    def launch(
        self: TritonLauncher, kernel: Any, grid: Any, *arguments: Any, **options: Any
    ) -> Any:
        return SimpleNamespace(run=None, function=0, packed_metadata=())

    monkeypatch.setattr(TritonLauncher, "_launch", launch)
    edges = [
        Edge(s, t, candidates_of("darts", 16, (4, 4), 1)[1])
        for s, t in ((0, 2), (1, 2), (0, 3), (2, 3))
    ]
    description = CellPlan.describe(2, edges)
    assert programs.suits(CellPlan.of(description))
    sizes = programs.Sizes(2, 16, ((4, 4), (4, 4)), 8, torch.float32, torch.device("cpu"), "ieee")
    keeps = (True, True)
    parameters = len(CellPlan.of(description).parameters)
    forward = programs._forward_program.__wrapped__(description, sizes, keeps).program
    backward = programs._backward_program.__wrapped__(
        description, sizes, keeps, (True, True), bytes([1] * parameters)
    )
    for program in (forward, backward):
        tensors = [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(40)]
        seen = set()
        for step, arguments in zip(program.steps, program.arguments(tensors), strict=True):
            expected = _moved(step.arguments, tensors)
            assert addresses_of(expected) == arguments[: len(expected)]
            seen |= {t.data_ptr() for t in expected if isinstance(t, Tensor)}
        assert len(seen) > 10
    assert [len(p.steps) for p in (forward, backward)] == [8, 16]
