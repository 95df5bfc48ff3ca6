"""The machine code of Triton kernels, without a GPU: what is launched, and its instructions.

The launches of a cell or of a stage are recorded with all their arguments instead of being made.
Each is then compiled as it would be on a device, and the tools in Triton's wheel list registers,
memory and instructions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hwnas.kernels.triton.backend import TritonBackend
from hwnas.kernels.triton.launch import MULTIPROCESSORS

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_DOUBLE = re.compile(r"\bD(ADD|MUL|FMA|SETP)\b")
COMPILER_OPTIONS = ("num_warps", "num_stages", "maxnreg")
TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64",
    torch.int32: "i32", torch.int64: "i64", torch.int8: "i8",
}  # fmt: skip


class Launch(NamedTuple):
    """A kernel, its grid, and the arguments that it was called with."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The kernel's name."""
        return str(self.kernel.__name__)


class RecordingBackend(TritonBackend):
    """Records launches instead of making them.

    Args:
        precision: as for `TritonBackend`.
        processors: multiprocessors that the work is split for.
    """

    def __init__(self, precision: str = "ieee", processors: int = MULTIPROCESSORS) -> None:
        super().__init__(precision)
        self.recorded: list[Launch] = []
        self._processors = processors

    def processors(self, device: torch.device) -> int:
        return self._processors

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        # `PIN` is false in the interpreter, but true where kernels are compiled.
        if "PIN" in options:
            options["PIN"] = True
        self.recorded.append(Launch(kernel, grid, arguments, options))


class Loop(NamedTuple):
    """A loop of machine code.

    Attributes:
        depth: number of loops around it.
        instructions: in its body, those of loops inside it included.
        own: in its body without the loops inside it.
        wide: loads of 16 bytes a thread from global memory in its body.
        narrow: shorter ones.
        innermost: whether there is no loop inside it.
        finishes: whether it computes in float64, as only the last program of a launch does that
            combines partial results.
    """

    depth: int
    instructions: int
    own: int
    wide: int
    narrow: int
    innermost: bool
    finishes: bool


class Code(NamedTuple):
    """The machine code of a kernel.

    Attributes:
        registers: of a thread.
        spills: bytes of local memory of a thread, including its stack.
        shared: bytes of shared memory of a program.
        instructions: one a line, without labels.
        loops: in the order in which they begin; a loop comes before those inside it.
    """

    registers: int
    spills: int
    shared: int
    instructions: list[str]
    loops: list[Loop]

    def loads(self) -> tuple[int, int]:
        """Loads of 16 bytes, and shorter ones, from global memory."""
        return _loads(self.instructions)


def compile_launch(launch: Launch, capability: int) -> Any:
    """The compiled kernel of a launch, for a compute capability such as 90."""
    parameters = {p.name: p for p in launch.kernel.params}
    given = dict(zip(parameters, launch.arguments, strict=False))
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, (name, parameter) in enumerate(parameters.items()):
        if name in given and parameter.do_not_specialize:
            signature[name] = "i32"
        elif name in given:
            signature[name] = _type_of(given[name], (i,), constants, attributes)
        else:
            signature[name] = "constexpr"
            constants[(i,)] = launch.options[name]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    options = {k: v for k, v in launch.options.items() if k in COMPILER_OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _type_of(
    value: Any,
    path: tuple[int, ...],
    constants: dict[tuple[int, ...], Any],
    attributes: dict[tuple[int, ...], Any],
) -> Any:
    """The type of an argument as Triton specialises it."""
    if value is None or (isinstance(value, int) and value == 1):
        constants[path] = value
        return "constexpr"
    if isinstance(value, tuple):
        return tuple(_type_of(v, (*path, i), constants, attributes) for i, v in enumerate(value))
    number = value.data_ptr() if isinstance(value, Tensor) else value
    if number % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    return "i32" if abs(value) < 2**31 else "i64"


def run_tool(name: str, *arguments: str) -> str:
    """The output of one of the tools in Triton's wheel."""
    command: Sequence[str] = (str(TOOLS / name), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_code(compiled: Any) -> Code:
    """The machine code of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
        text = run_tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    instructions, spans = _parse(text)
    return Code(
        registers, stack + local, compiled.metadata.shared, instructions,
        _loops(instructions, spans),
    )  # fmt: skip


def _parse(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Instructions, and (first, last) of each loop: a branch to an earlier label ends one."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in text.split("\n"):
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(code[1])
    spans: dict[int, int] = {}
    for last, code_line in enumerate(instructions):
        branch = re.search(r"BRA[^`]*`\((\.L_x_\d+)\)", code_line)
        # The branch at the end of a kernel leads to itself.
        if branch and labels[branch[1]] < last:
            first = labels[branch[1]]
            spans[first] = max(last, spans.get(first, 0))
    return instructions, sorted(spans.items(), key=lambda span: (span[0], -span[1]))


def _loops(instructions: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[Loop]:
    loops = []
    for first, last in spans:
        inside = [s for s in spans if s != (first, last) and first <= s[0] and s[1] <= last]
        around = [s for s in spans if s != (first, last) and s[0] <= first and last <= s[1]]
        covered = {i for start, end in inside for i in range(start, end + 1)}
        body = instructions[first : last + 1]
        wide, narrow = _loads(body)
        finishes = any(_DOUBLE.search(line) for line in body)
        own = len(body) - len(covered)
        loops.append(Loop(len(around), len(body), own, wide, narrow, not inside, finishes))
    return loops


def _loads(instructions: Sequence[str]) -> tuple[int, int]:
    loads = [m[1] for line in instructions if (m := re.search(r"\bLDG(?:STS)?\.E(\S*)", line))]
    wide = sum(".128" in suffix for suffix in loads)
    return wide, len(loads) - wide
