"""The instruction sets that the tests of the C++ kernels run with."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from hwnas.kernels import operator
from hwnas.kernels.cpu import cell as cpu_cell
from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.cpu.binding import UnavailableError, available_instructions
from hwnas.kernels.cpu.memory import MemoryPool


def found(dtype: torch.dtype) -> tuple[str, ...]:
    """The instruction sets for a type; none, so that tests are skipped, without the kernels."""
    try:
        return available_instructions(dtype)
    except UnavailableError:
        return ()


def use(instructions: str, monkeypatch) -> None:
    """Run the operator with one instruction set, and fill new memory with NaN."""
    for owner, name in (
        (torch, "empty"), (torch, "empty_strided"), (torch, "empty_like"),
        (torch.Tensor, "new_empty"), (MemoryPool, "empty"),
    ):  # fmt: skip
        inner = getattr(owner, name)

        def poisoned(*args, inner=inner, **kwargs):
            made = inner(*args, **kwargs)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        monkeypatch.setattr(owner, name, poisoned)
    for module in (operator, cpu_cell, import_module("hwnas.kernels.relu_pointwise")):
        monkeypatch.setattr(
            module, "backend_for", lambda name, dtype: CpuBackend(dtype, instructions)
        )


@pytest.fixture(params=found(torch.float32))
def instructions(request, monkeypatch) -> str:
    """Each instruction set of float32."""
    use(request.param, monkeypatch)
    return request.param


@pytest.fixture(params=found(torch.float64))
def instructions_of_float64(request, monkeypatch):
    """Each instruction set of float64."""
    use(request.param, monkeypatch)
