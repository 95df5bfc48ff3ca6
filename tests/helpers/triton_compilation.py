"""Compile the Triton kernels for GPUs without having one, and read the resources that they need.

The launches of a real stage are recorded and compiled by `benchmarks/machine_code.py`. Run as a
program, with `benchmarks` on the path, this file writes `triton_resources.json`: the resources in
one case, in which tests notice every change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from machine_code import Launch, Loop, RecordingBackend, compile_launch, read_code, run_tool

from hwnas.kernels.operands import MixTerm, NormTerms, PoolGradient, StageBackward, TableRows
from hwnas.kernels.plan import Convolution, Norm

TABLE = Path(__file__).with_name("triton_resources.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CAPABILITIES = (80, 90, 100)
WIDTHS = (16, 32, 64, 128)
TABLE_CASE = (16, "float32", 90)
"""Width, type and compute capability of the table."""
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


class Resources(NamedTuple):
    """What the machine code of a kernel needs.

    Attributes:
        registers: registers of a thread.
        spills: bytes of local memory of a thread, including its stack.
        shared: bytes of shared memory of a program.
        wide_loads: number of instructions that load 16 bytes from global memory.
        loads: number of all instructions that load from global memory.
        inner: instructions, wide loads and narrow loads of each innermost loop that loads, without
            those of the last program.
    """

    registers: int
    spills: int
    shared: int
    wide_loads: int
    loads: int
    inner: list[list[int]]


def separable(kernel: int, dilation: int, stride: int, first: int, reads: int | None = None):
    """A separable convolution whose weights are parameters `first` and the next one."""
    norm = Norm(0, None, None)
    return Convolution("separable", kernel, dilation, stride, (first, first + 1), norm, reads)


def stages(channels: int, stride: int):
    """The convolutions of the first and second stage of a DARTS edge, and their parameters."""
    shapes, first, second = [], [], []
    for kernel, dilation in ((3, 1), (5, 1), (3, 2), (5, 2)):
        first.append(separable(kernel, dilation, stride, len(shapes)))
        shapes += [(channels, 1, kernel, kernel), (channels, channels, 1, 1)]
    for reads, kernel in enumerate((3, 5)):
        second.append(separable(kernel, 1, 1, len(shapes), reads))
        shapes += [(channels, 1, kernel, kernel), (channels, channels, 1, 1)]
    return first, second, [torch.zeros(shape) for shape in shapes]


def dense_stage(channels: int):
    """The convolutions of a NAS-Bench-201 edge, and their parameters."""
    norm = Norm(0, None, None)
    convolutions = [Convolution("dense", k, 1, 1, (i,), norm) for i, k in enumerate((1, 3))]
    return convolutions, [torch.zeros(channels, channels, k, k) for k in (1, 3)]


def launches(channels: int, dtype: torch.dtype, stride: int, precision: str) -> list[Launch]:
    """The launches of a DARTS edge and of a stage of dense convolutions."""
    backend = RecordingBackend(precision)
    width = backend.width(channels)
    x = torch.zeros(2, 32, 32, width, dtype=dtype)
    g = torch.zeros(2, 32 // stride, 32 // stride, width, dtype=dtype)
    first, second, parameters = stages(channels, stride)
    table = torch.zeros(9, 6, width)
    coefficients = torch.zeros(9, 3, width)
    norms = [Norm(0, None, None)] * 6
    filled = TableRows(norms, [*range(6), -1], table[:7])
    pools, y = backend.source_forward(x, stride, first, parameters, True, filled)
    assert pools is not None
    assert y is not None
    filled = TableRows(norms[:2], range(2), table[6:8])
    z = backend.stage_forward(y, table[:4], second, parameters, filled)
    values = [pools.maximum, pools.mean, *y, *z]
    backend.mix([MixTerm(v, t, i) for i, (v, t) in enumerate(zip(values, table, strict=False))],
                torch.zeros(16))  # fmt: skip
    values[:2] = backend.pool_values(x, stride)[:2]
    of_terms = NormTerms(table, range(len(values)), 1, None, torch.zeros(16))
    backend.reduce_terms([(g, v) for v in values], of_terms)
    gradients = [torch.zeros_like(p) for p in parameters]
    stage = StageBackward(
        second, parameters, z, [g, g], list(coefficients[:2]), list(table[4:6]), gradients
    )
    backend.stage_backward(y, stage, NormTerms(table, range(2), 1))
    of_pool = (coefficients[0], table[0])
    of_edge = PoolGradient(g, of_pool, of_pool, coefficients[0] if stride == 1 else None)
    stage = StageBackward(
        first, parameters, y, [g] * 4, list(coefficients[:4]), list(table[:4]), gradients
    )
    backend.source_backward(x, stride, stage, [of_edge], None, needs_input=True)
    if stride == 1:
        dense, parameters = dense_stage(channels)
        filled = TableRows(norms[:2], range(2), table[:2])
        y = backend.stage_forward(x.unsqueeze(0), None, dense, parameters, filled)
        gradients = [torch.zeros_like(p) for p in parameters]
        stage = StageBackward(
            dense, parameters, y, [g, g], list(coefficients[:2]), list(table[:2]), gradients
        )
        backend.convolve_backward(x.unsqueeze(0), None, stage, needs_input=True)
    return backend.recorded


def label(launch: Launch) -> str:
    """Name of a launch: the kernel and its variant."""
    flags = [str(launch.options[k]) for k in ("KINDS",) if k in launch.options]
    if launch.options.get("NORMALISED"):
        flags.append("normalised")
    return " ".join((launch.name, *flags))


def resources(compiled: object) -> Resources:
    """Read the resources of a compiled kernel from its machine code."""
    code = read_code(compiled)
    wide, narrow = code.loads()
    inner = [
        tap_loop(loop)
        for loop in code.loops
        if loop.innermost and loop.wide + loop.narrow and not loop.finishes
    ]
    return Resources(code.registers, code.spills, code.shared, wide, wide + narrow, inner)


def tap_loop(loop: Loop) -> list[int]:
    """What the table says of a loop."""
    return [loop.instructions, loop.wide, loop.narrow]


def ptxas_version() -> str:
    """Version of the assembler in Triton's wheel."""
    found = re.search(r"release (\S+),", run_tool("ptxas", "--version"))
    return "unknown" if found is None else found[1]


def measure(width: int, dtype: str, capability: int) -> Iterator[tuple[str, Resources]]:
    """Name and resources of all kernels for a width, a type and a compute capability."""
    seen = set()
    for stride in (1, 2):
        for launch in launches(width, DTYPES[dtype], stride, "ieee"):
            strided = launch.options.get("STRIDE", 1) != 1
            name = label(launch) + (" stride 2" if strided else "")
            if name not in seen:
                seen.add(name)
                yield name, resources(compile_launch(launch, capability))


def versions() -> dict[str, str]:
    """The versions that the numbers of the table depend on."""
    return {"triton": triton.__version__, "ptxas": ptxas_version()}


def write_table() -> None:
    """Compile the kernels in one case and write the table, one line for each kernel."""
    rows = {name: list(found) for name, found in measure(*TABLE_CASE)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    header = f'  "versions": {json.dumps(versions())},\n  "fields": {json.dumps(Resources._fields)}'
    TABLE.write_text(f"{{\n{header},\n{lines}\n}}\n")


if __name__ == "__main__":
    write_table()
