"""Addresses are checked before they leave Python; the OpenMP runtime is found wherever it is."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hwnas.kernels.cpu import binding, openmp
from hwnas.kernels.cpu.backend import CpuBackend
from hwnas.kernels.cpu.binding import UnavailableError, elements, vectors
from hwnas.kernels.cpu.structures import Shape
from hwnas.kernels.operands import MixTerm

SHAPE = Shape(lanes=8, is_double=0)


def room(elements: int, offset: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory that begins so many bytes after an aligned address."""
    raw = torch.zeros(elements * dtype.itemsize + offset + 64, dtype=torch.uint8)
    start = -raw.data_ptr() % 64 + offset
    part = raw[start : start + elements * dtype.itemsize]
    return torch.frombuffer(part.numpy(), dtype=dtype)


@pytest.mark.parametrize("offset", [0, 32, 64])
def test_aligned_vectors_have_an_address(offset) -> None:
    x = room(16, offset)
    assert vectors(x, SHAPE) == x.data_ptr()
    assert vectors(None, SHAPE) is None


@pytest.mark.parametrize("offset", [1, 4, 16])
def test_vectors_at_other_addresses_are_refused(offset) -> None:
    with pytest.raises(ValueError, match=f"multiple of 32 bytes.*{offset} bytes after one"):
        vectors(room(16, offset), SHAPE)


def test_elements_need_no_more_than_their_own_alignment() -> None:
    assert elements(room(16, 4), torch.float32) is not None
    for offset, dtype in ((2, torch.float32), (4, torch.float64)):
        with pytest.raises(ValueError, match=f"multiple of {dtype.itemsize} bytes"):
            elements(room(16, offset, dtype), dtype)


@pytest.mark.parametrize(
    "tensor, found",
    [
        (torch.zeros(4, 8).t(), "not contiguous"),
        (torch.zeros(4, 8, dtype=torch.float16), "torch.float16"),
        (torch.zeros(4, 8, dtype=torch.float64), "torch.float64"),
        (torch.zeros(4, 8, device="meta"), "on meta"),
    ],
    ids=["strides", "half", "double", "device"],
)
def test_what_kernels_cannot_read_is_refused(tensor, found) -> None:
    with pytest.raises(ValueError, match=f"expect contiguous tensors of torch.float32.*{found}"):
        vectors(tensor, SHAPE)


def unaligned_calls() -> dict[str, Callable[[CpuBackend], object]]:
    """Calls of the backend with one tensor at an address that vectors cannot be read from."""
    (value, other_value), (row, other_row) = (
        [room(math.prod(shape), offset).view(shape) for offset in (0, 4)]
        for shape in ((2, 3, 3, 4), (6, 4))
    )
    weight = torch.ones(1)
    return {
        "value": lambda kernels: kernels.mix([MixTerm(other_value, row, 0)], weight),
        "row": lambda kernels: kernels.reduce([(value, value, other_row)]),
        "list": lambda kernels: kernels.statistics([value, other_value]),
        "pool": lambda kernels: kernels.pools(other_value, 1),
        "coefficients": lambda kernels: kernels.apply([(value, value, row)], other_row[:3]),
    }


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("name", unaligned_calls())
def test_the_backend_refuses_unaligned_tensors(name) -> None:
    """Every list of addresses is made with the check."""
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        unaligned_calls()[name](CpuBackend(torch.float32, "portable"))


@pytest.mark.parametrize(
    "name, is_one",
    [
        ("libgomp.so.1", True),
        ("libgomp-24e2ab19.so.1.0.0", True),
        ("libiomp5.so", True),
        ("libomp.dylib", True),
        ("libomp.so.5", True),
        ("libtorch_cpu.so", False),
        ("libcomp.so", False),
        ("libompd.so", False),
        ("libgomp.spec", False),
    ],
)
def test_runtimes_are_known_by_their_name(name, is_one) -> None:
    assert bool(openmp.FILE_NAME.fullmatch(name)) == is_one


def test_runtimes_are_tried_in_order(monkeypatch, tmp_path) -> None:
    beside = str(Path(torch.__file__).parent.parent / "torch.libs" / "libgomp-1a.so.1")
    files = ["/usr/lib/libc.so.6", "/usr/lib/libiomp5.so", beside, "/usr/lib/libiomp5.so"]
    monkeypatch.setattr(openmp, "_loaded_files", lambda: iter(files))
    monkeypatch.setattr(openmp, "bundled", lambda: ["/torch/lib/libomp.so"])
    monkeypatch.setattr(openmp, "OF_SYSTEM", {sys.platform: ("libgomp.so.1",)})
    assert list(openmp.runtimes()) == [
        "/torch/lib/libomp.so", beside, "/usr/lib/libiomp5.so", "libgomp.so.1",
    ]  # fmt: skip


def test_the_next_runtime_is_tried_where_one_does_not_fit(monkeypatch) -> None:
    opened: list[str] = []

    def open_library(path: str, mode: int = 0) -> str:
        opened.append(path)
        if path == "missing" or (path == "kernels" and "fits" not in opened):
            raise OSError(f"{path}: undefined symbol")
        return path

    monkeypatch.setattr(ctypes, "CDLL", open_library)
    monkeypatch.setattr(openmp, "runtimes", lambda: iter(("missing", "other", "fits", "late")))
    assert openmp.load_with_openmp(Path("kernels")) == "kernels"
    assert opened == ["missing", "other", "kernels", "fits", "kernels"]


WITHOUT = """
import ctypes, sys
import torch
from hwnas.kernels.cpu import binding, openmp
for name in {removed}:
    setattr(openmp, name, lambda: [])
tried = []
inner = ctypes.CDLL
def watched(name, *args, **kwargs):
    tried.append(name)
    return inner(name, *args, **kwargs)
ctypes.CDLL = watched
print(binding.available_instructions()[0], tried[0])
"""


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.skipif(sys.platform != "linux", reason="names of libraries on Linux")
@pytest.mark.parametrize(
    "removed, expected",
    [
        (("bundled",), openmp.mapped),
        (("bundled", "mapped"), lambda: ["libgomp.so.1"]),
    ],
    ids=["mapped", "system"],
)
def test_the_kernels_load_without_a_runtime_in_pytorchs_folder(removed, expected) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(removed=removed)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    instructions, first = done.stdout.split()
    assert instructions in binding.INSTRUCTIONS
    assert [first] == expected()[:1]


@pytest.mark.usefixtures("needs_kernels")
def test_kernels_of_other_sources_are_refused(monkeypatch) -> None:
    monkeypatch.setitem(binding.FUNCTIONS, "another", ())
    with pytest.raises(UnavailableError, match="without another: reinstall hwnas"):
        binding.load_library.__wrapped__()
