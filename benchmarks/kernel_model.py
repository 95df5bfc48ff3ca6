"""What a DARTS cell would cost a GPU, from the machine code of its kernels; no GPU is needed.

The launches of a normal cell, forward and backward, are recorded with all their arguments and
compiled for the GPU. For each launch the model counts

- instructions: those of a program are the instructions of its loops, times how often each runs
  (tiles of a program, rows of a kernel, convolutions that read a value), and those outside of
  them; and what the last program of each convolution or sum does to combine partial results, which
  is the difference to a kernel that is compiled without it;
- bytes: every tensor that the launch reads or writes, once;
- waves: programs, divided by those that the device has registers for at once.

The times are lower bounds: four instructions a cycle and multiprocessor, and bytes at the bandwidth
of the data sheet. Latency, caches that miss, and the launches themselves come on top, so no row
says how fast a cell is. Beside them stand the operators that eager PyTorch runs for the same cell;
with --compile also the kernels that TorchInductor generates for one edge on a CPU, times 14.

    python benchmarks/kernel_model.py [--width 16] [--batch 64] [--dtype float32] [--compile]
        [--save]
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from baselines import cell, eager_edge
from bench_mixed_op import SIZES, Case, Tensors
from machine_code import Code, Launch, Loop, RecordingBackend, compile_launch, read_code
from results import append_row
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.kernels.fused import FusedCell
from hwnas.kernels.plan import CellPlan, tensors_of
from hwnas.kernels.triton import tiles
from hwnas.kernels.triton.layout import REGISTERS
from hwnas.kernels.triton.statistics import ELEMENTS


class Device(NamedTuple):
    """A GPU's data sheet.

    Attributes:
        capability: for which code is compiled.
        processors: multiprocessors, each of which issues four instructions of warps a cycle.
        gigahertz: boost clock.
        terabytes: memory bandwidth, TB a second.
    """

    capability: int
    processors: int
    gigahertz: float
    terabytes: float


DEVICES = {
    "H200": Device(90, 132, 1.755, 4.8),
    "A100": Device(80, 108, 1.41, 2.039),
}
ISSUED = 4
SHAPE, ROWS = (int(field.value) for field in (tiles.SHAPE, tiles.ROWS))


class Cost(NamedTuple):
    """What one launch takes.

    Attributes:
        instructions: of warps.
        bytes_moved: of global memory.
        waves: how often the programs fill the device.
    """

    instructions: float
    bytes_moved: int
    waves: float


def record_cell(tensors: Tensors, device: Device, precision: str = "ieee") -> list[Launch]:
    """The launches of a cell on a device, forward and backward, with all gradients."""
    plan = CellPlan.of(CellPlan.describe(len(tensors.inputs), tensors.edges))
    dtype = tensors.inputs[0].dtype
    parameters = [c.tensors[n].detach().to(dtype) for c, n in tensors_of(tensors.edges)[0]]
    backend = RecordingBackend(precision, device.processors)
    width = backend.width(tensors.inputs[0].shape[1])
    n, _, height, wide = tensors.inputs[0].shape
    states = [torch.zeros(n, height, wide, width, dtype=dtype) for _ in tensors.inputs]
    weights = tensors.weights.detach().float()
    fused = FusedCell(plan, backend, parameters, None)
    nodes, groups = fused.forward(states, weights)
    fused = FusedCell(plan, backend, parameters, None)
    fused.backward(
        states + nodes, groups, weights, [torch.zeros_like(x) for x in nodes],
        [torch.zeros_like(p) for p in parameters], [True] * len(states),
    )  # fmt: skip
    return backend.recorded


def arguments_of(launch: Launch) -> dict[str, Any]:
    """The arguments of a launch by name, those of compile time included."""
    names = (p.name for p in launch.kernel.params)
    return dict(zip(names, launch.arguments, strict=False)) | launch.options


def bytes_of(launch: Launch) -> int:
    """Bytes of all tensors of a launch, each counted once."""
    sizes: dict[Any, int] = {}

    def add(tensor: Tensor, offset: int = 0) -> None:
        size = tensor.numel() * tensor.element_size()
        sizes[tensor.data_ptr() + offset * tensor.element_size(), size] = size

    given = list(launch.arguments)
    for i, value in enumerate(given):
        following = given[i + 1] if i + 1 < len(given) else None
        if isinstance(value, Tensor):
            add(value)
        elif isinstance(value, tuple) and _are_places(following):
            for index, offset in following.tolist():
                add(value[index], offset)
        elif isinstance(value, tuple):
            for part in value:
                for tensor in part if isinstance(part, tuple) else (part,):
                    if isinstance(tensor, Tensor):
                        add(tensor)
    return sum(sizes.values())


def _are_places(value: Any) -> bool:
    """Whether an argument is the second half of `arguments.Places`."""
    return isinstance(value, Tensor) and value.dtype == torch.int64 and value.ndim == 2


class Nest(NamedTuple):
    """A loop and those inside it."""

    loop: Loop
    inside: list[Nest]


def nests_of(loops: Sequence[Loop]) -> list[Nest]:
    """The outermost loops, in order."""
    found: list[Nest] = []
    path: list[list[Nest]] = [found]
    for loop in loops:
        del path[loop.depth + 1 :]
        nest = Nest(loop, [])
        path[loop.depth].append(nest)
        path.append(nest.inside)
    return found


def row_loops(nests: Sequence[Nest], shapes: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Instructions of a row of taps by kernel size, of a loop for each shape.

    Raises:
        ValueError: when the compiler made other loops than one for each.
    """
    if len(nests) != len(shapes):
        raise ValueError(f"expected {len(shapes)} loops over rows, found {len(nests)}")
    lengths = sorted(nest.loop.instructions for nest in nests)
    sizes = sorted(size for size, _ in shapes)
    return dict(zip(sizes, lengths, strict=True))


@cache
def code_of(key: Any) -> Code:
    """The machine code of a launch, compiled once for all that share a key."""
    launch, capability = key.launch, key.capability
    return read_code(compile_launch(launch, capability))


class Key(NamedTuple):
    """A launch and a capability, equal to others for which the same code is compiled."""

    text: str
    launch: Launch
    capability: int

    def __hash__(self) -> int:
        return hash((self.text, self.capability))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and (self.text, self.capability) == (
            other.text,
            other.capability,
        )


def variant_of(launch: Launch, capability: int) -> Key:
    """What a launch is compiled for: types of its arguments and compile-time values."""

    def kind(value: Any) -> str:
        if isinstance(value, Tensor):
            return str(value.dtype)
        if isinstance(value, tuple):
            return f"({','.join(map(kind, value))})"
        return "None" if value is None else f"{value == 1}{value % 16 == 0}"

    unspecialised = {p.name for p in launch.kernel.params if p.do_not_specialize}
    parts = [
        kind(value)
        for parameter, value in zip(launch.kernel.params, launch.arguments, strict=False)
        if parameter.name not in unspecialised
    ]
    return Key(
        f"{launch.name} {parts} {sorted(launch.options.items(), key=str)}", launch, capability
    )


def cost_of(launch: Launch, device: Device) -> Cost:
    """Instructions, bytes and waves of a launch.

    Raises:
        ValueError: when the compiler made other loops than the model knows.
    """
    code = code_of(variant_of(launch, device.capability))
    warps = launch.options["num_warps"]
    plain = without_end(launch)
    simple = code_of(variant_of(plain, device.capability))
    count = INSTRUCTIONS[launch.name](plain, simple, device.capability)
    if plain is not launch:
        count += of_end(launch, code, simple)
    programs = 1
    for size in launch.grid:
        programs *= size
    allocated = -(-code.registers // 8) * 8 * 32 * warps
    resident = min(REGISTERS // allocated, 64 // warps)
    return Cost(count * warps, bytes_of(launch), programs / (resident * device.processors))


END = {
    "stage_forward": ("filled", "rows", "counters"),
    "reduce": ("coefficients", "d_weights", "d_gamma", "d_beta", "counters"),
    "stage_backward_inputs": ("coefficients", "d_gamma", "d_beta", "counters"),
}
"""Arguments of what the last program of a launch does."""


def without_end(launch: Launch) -> Launch:
    """The launch without what its last programs do; the same one if they do nothing."""
    names = END.get(launch.name, ())
    given = arguments_of(launch)
    if all(given[name] is None for name in names):
        return launch
    arguments = [
        None if parameter.name in names else value
        for parameter, value in zip(launch.kernel.params, launch.arguments, strict=False)
    ]
    return launch._replace(arguments=tuple(arguments))


def of_end(launch: Launch, code: Code, simple: Code) -> float:
    """Instructions of the last programs: one for each convolution, sum, or value that is read."""
    given = arguments_of(launch)
    programs, groups = launch.grid[0], launch.grid[-1]
    if launch.name == "stage_forward":
        # The last program of the pools fills the rows of two statistics.
        programs, groups = launch.grid[1] + (given["maximum"] is not None), launch.grid[0]
    elif launch.name == "reduce":
        groups = launch.grid[1]
    else:
        programs, groups = len(given["read_values"]), given["input_groups"]
    blocks = -(-groups * given["C"] // int(ELEMENTS.value))
    loops = sum(
        loop.own * ((blocks if loop.wide else given.get("row_count", 0)) - 1)
        for loop in code.loops
        if loop.finishes and loop.innermost
    )
    return programs * (len(code.instructions) - len(simple.instructions) + loops)


def outside(code: Code) -> float:
    """Instructions of a program outside of all loops, shared evenly by the outermost loops.

    Each program runs one of them, and what stands before and after it.
    """
    outermost = [x.instructions for x in code.loops if x.depth == 0]
    return (len(code.instructions) - sum(outermost)) / max(len(outermost), 1)


def tiles_of(given: dict[str, Any]) -> int:
    """Tiles of the outputs of a stage."""
    pixels = given["images"] * given["out_height"] * given["out_width"]
    return -(-pixels // given["BLOCK"])


def by_tiles(launch: Launch, code: Code, capability: int) -> float:
    """Instructions of `stage_forward` and `stage_backward_outputs`."""
    given, (convolutions, *pools) = arguments_of(launch), nests_of(code.loops)
    chunks = given["C"] // given["BLOCK_K"]
    inner, own, chunk_own = convolutions.inside, convolutions.loop.own, 0
    if launch.name == "stage_forward" and chunks > 1:
        chunk_own, inner = inner[0].loop.own * chunks, inner[0].inside
    elif chunks > 1:
        chunk_own, inner = inner[0].loop.instructions * chunks, inner[1:]
    rows = row_loops(inner, given["SHAPES"])
    repeats = chunks if launch.name == "stage_forward" else 1
    total = 0.0
    for row in given["convolutions"].tolist():
        size = given["SHAPES"][row[SHAPE]][0]
        total += own + chunk_own + repeats * size * rows[size]
    for pool in pools[:1] if launch.grid[1] > len(given["convolutions"]) else []:
        trips = (3, given.get("maxima", 0), given.get("means", 0))
        total += pool.loop.own + sum(
            trip * nest.loop.instructions for trip, nest in zip(trips, pool.inside, strict=False)
        )
    programs = launch.grid[0] * launch.grid[1]
    return total * tiles_of(given) + programs * outside(code)


def of_inputs(launch: Launch, code: Code, capability: int) -> float:
    """Instructions of `stage_backward_inputs`."""
    given, (gather, *weights) = arguments_of(launch), nests_of(code.loops)
    readers, *others = gather.inside
    rows = row_loops(readers.inside, given["SHAPES"])
    of_weights = row_loops(weights, given["SHAPES"])
    values = len(given["read_values"])
    pixels = given["images"] * given["height"] * given["width"]
    once = values * gather.loop.own + sum(
        trip * nest.loop.instructions
        for trip, nest in zip((3, given["skips"]), others, strict=False)
    )
    products = 0
    for row in given["convolutions"].tolist():
        size = given["SHAPES"][row[SHAPE]][0]
        once += readers.loop.own + size * rows[size]
        products += size * of_weights[size]
    count = once * -(-pixels // given["BLOCK"]) + launch.grid[0] * outside(code)
    return count + (products * tiles_of(given) if given["parts"] is not None else 0)


def of_mix(launch: Launch, code: Code, capability: int) -> float:
    """Instructions of `mix`, which has no loops."""
    return float(launch.grid[0] * len(code.instructions))


def of_reduce(launch: Launch, code: Code, capability: int) -> float:
    """Instructions of `reduce`; code without pools tells what other values take."""
    given = arguments_of(launch)
    plain = launch._replace(options=launch.options | {"POOLED": False, "STRIDE": 1})
    simple = nests_of(code_of(variant_of(plain, capability)).loops)[0].loop.instructions
    (loop, *_) = nests_of(code.loops)
    pooled = loop.loop.own + sum(3 * nest.loop.instructions for nest in loop.inside)
    kinds = given["terms"][::4].tolist()
    each = sum(pooled if kind else simple for kind in kinds)
    return each * tiles_of(given) + launch.grid[0] * launch.grid[1] * outside(code)


def of_sums(launch: Launch, code: Code, capability: int) -> float:
    """Instructions of `sum_weight_gradients`, with all loops over all partial results."""
    groups = max(len(partial) for partial in arguments_of(launch)["partials"])
    loops = sum(x.own for x in code.loops)
    return float(launch.grid[0] * launch.grid[1] * (outside(code) + groups * loops))


INSTRUCTIONS = {
    "stage_forward": by_tiles, "stage_backward_outputs": by_tiles,
    "stage_backward_inputs": of_inputs, "mix": of_mix, "reduce": of_reduce,
    "sum_weight_gradients": of_sums,
}  # fmt: skip


LIBRARY_CALL = re.compile(r"= (?:extern_kernels|torch\.ops\.aten)\.[\w.]+\(")
"""In the code of TorchInductor, where comments and assertions name operators too."""


class OperatorCounter(TorchDispatchMode):
    """Counts operators of PyTorch that are neither views nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        schema = function._schema
        views = any(a.alias_info and not a.alias_info.is_write for a in schema.arguments)
        if not views and not schema.name.startswith(("aten::empty", "aten::new_empty")):
            self.found[schema.name] += 1
        return function(*args, **(kwargs or {}))


def eager_operators(tensors: Tensors) -> int:
    """Operators of the cell in eager PyTorch, forward and backward."""
    with OperatorCounter() as counter:
        tensors.step(lambda t: cell(t.inputs, t.weights, t.edges, eager_edge))
    return counter.found.total()


def compiled_kernels(width: int) -> int:
    """Kernels and library calls that TorchInductor makes of one edge, forward and backward."""
    from torch._inductor import metrics
    from torch._inductor.utils import run_and_get_code

    tensors = Tensors(Case("edge", 2, width, 8), "cpu", torch.float32, torch.channels_last)
    compiled = torch.compile(eager_edge, dynamic=False)
    metrics.reset()
    _, sources = run_and_get_code(
        lambda: tensors.step(lambda t: cell(t.inputs, t.weights, t.edges, compiled))
    )
    calls = sum(len(LIBRARY_CALL.findall(source)) for source in sources)
    return int(metrics.generated_kernel_count) + calls


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each device and kernel, and one for the whole cell."""
    width, dtype = arguments.width, getattr(torch, arguments.dtype)
    size = SIZES[width]
    case = Case("normal_cell", arguments.batch, width, size)
    tensors = Tensors(case, "cpu", dtype, torch.channels_last)
    small = Tensors(Case("normal_cell", 2, width, 4), "cpu", torch.float32, torch.channels_last)
    eager = eager_operators(small)
    inductor = 14 * compiled_kernels(width) if arguments.compile else ""
    for name, device in DEVICES.items():
        launches = record_cell(tensors, device)
        costs: dict[str, list[Cost]] = {}
        for launch in launches:
            costs.setdefault(launch.name, []).append(cost_of(launch, device))
        costs["cell"] = [cost for found in costs.values() for cost in found]
        for kernel, found in costs.items():
            instructions = sum(cost.instructions for cost in found)
            moved = sum(cost.bytes_moved for cost in found)
            cycles = device.processors * ISSUED * device.gigahertz * 1e6
            yield {
                "device": name, "n": case.n, "c": width, "size": size, "dtype": arguments.dtype,
                "kernel": kernel, "launches": len(found), "giga_instructions": instructions / 1e9,
                "gigabytes": moved / 1e9, "instructions_ms": instructions / cycles,
                "bytes_ms": moved / device.terabytes / 1e9,
                "lowest_waves": min(cost.waves for cost in found),
                "variants": len(
                    {variant_of(x, 90) for x in launches if kernel in (x.name, "cell")}
                ),
                "eager_operators": eager if kernel == "cell" else "",
                "inductor_kernels": inductor if kernel == "cell" else "",
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16, choices=SIZES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--compile", action="store_true", help="count TorchInductor's kernels too")
    parser.add_argument("--save", action="store_true", help="append to results/kernel_model.csv")
    arguments = parser.parse_args()
    for row in rows_of(arguments):
        print(
            f"{row['device']} {row['kernel']}: {row['launches']} launches of {row['variants']} "
            f"variants, {row['giga_instructions']:.3f} G instructions "
            f"({row['instructions_ms']:.2f} ms), {row['gigabytes']:.2f} GB "
            f"({row['bytes_ms']:.2f} ms), {row['lowest_waves']:.1f} waves or more"
        )
        if arguments.save:
            append_row("kernel_model", row, quiet=True)


if __name__ == "__main__":
    main()
