"""What the launches of a DARTS cell cost the host, with Triton's own launcher and no GPU.

The kernels are compiled for sm_90 and launched on CPU tensors through a driver that does nothing
(`stub_driver.c`), so what is measured is Python, PyTorch and Triton's launcher: of a cell that is
computed kernel by kernel, as a program that was prepared before (with running statistics), and as a
program with autograd around it. The first evaluation compiles. All times are CPU time of one
thread, medians of rounds in which the three take turns, or of rounds of one of them. On a core that
others use too, --realtime (for root) keeps them from it while the rounds last.

    python benchmarks/launch_cost.py [--rounds 15] [--only program] [--folder kept] [--realtime]
        [--save]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Ways = tuple[Callable[[], Any], Callable[[Any], None]]
"""A forward pass, and a backward pass of what it returned."""


def use_stub_driver(folder: Path) -> None:
    """Compile the driver that does nothing, load it, and make it Triton's."""
    library = folder / "libcuda.so.1"
    source = Path(__file__).with_name("stub_driver.c")
    options = ("-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(library))
    subprocess.run(("cc", str(source), *options), check=True)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    os.environ["TRITON_CACHE_DIR"] = str(folder / "cache")
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia import driver

    class Stub(driver.CudaDriver):  # type: ignore[misc]
        """Triton's driver on a device that is not there."""

        def __init__(self) -> None:
            self.utils = driver.CudaUtils()
            self.launcher_cls = driver.CudaLauncher
            self.get_device_capability = lambda device=0: (9, 0)
            self.get_current_stream = lambda device: 0
            self.get_current_device = lambda: 0
            self.set_current_device = lambda device: None

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

    triton.runtime.driver.set_active(Stub())


def ways_of(batch: int = 4, channels: int = 16, size: int = 8) -> tuple[dict[str, Ways], int]:
    """What is timed, by name, and the number of launches of a pass forward and backward."""
    from bench_mixed_op import Case, Tensors

    from hwnas.kernels.cell import Selection
    from hwnas.kernels.function import CellCall, run_cell
    from hwnas.kernels.fused import FusedCell
    from hwnas.kernels.held import separate_parameters
    from hwnas.kernels.plan import CellPlan
    from hwnas.kernels.triton import cell as programs
    from hwnas.kernels.triton.backend import TritonBackend

    class Counting(TritonBackend):
        """Counts launches."""

        launches = 0

        def _launch(self, *arguments: Any, **options: Any) -> Any:
            Counting.launches += 1
            return super()._launch(*arguments, **options)

    case = Case("normal_cell", batch, channels, size)
    tensors = Tensors(case, "cpu", torch.float32, torch.channels_last, is_flat=True)
    selection = Selection(2, tensors.edges)
    plan = CellPlan.of(selection.description)
    vectors = [p.detach() for p in selection.parameters.tensors]
    parameters = [p.detach() for p in separate_parameters(tensors.edges)]
    backend = Counting()
    states = [torch.zeros(batch, size, size, channels) for _ in range(6)]
    images = [x.permute(0, 3, 1, 2) for x in states]
    weights = tensors.weights.detach()
    # Parts of one vector, as the operator of a cell makes them.
    joined = torch.zeros(sum(p.numel() for p in parameters))
    parts = joined.split([p.numel() for p in parameters])
    gradients = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
    call = CellCall(
        selection.description, True, 0.1, "nothing", "exact", selection.parameters.places,
        selection.running,
    )  # fmt: skip
    leaves = [t.clone().requires_grad_() for t in (*images[:2], weights, *vectors)]
    needed, counts = [True] * len(leaves), (2, len(vectors))
    of_nodes = images[2:]

    def by_kernels() -> Any:
        return FusedCell(plan, backend, parameters, None).forward(states[:2], weights)[1]

    def by_kernels_back(groups: Any) -> None:
        cell = FusedCell(plan, backend, parameters, None)
        cell.backward(states, groups, weights, states[2:], gradients, [True, True])

    @torch.no_grad()
    def by_program() -> Any:
        return programs.forward(call, images[:2], weights, vectors, save=True)[1]

    @torch.no_grad()
    def by_program_back(kept: Any) -> None:
        read = images[2:5]
        saved = [*images[:2], weights, *vectors, *read, kept]
        programs.backward(call, counts, needed, saved, of_nodes)

    def by_autograd() -> Any:
        return run_cell(programs, call, leaves[:2], leaves[2], leaves[3:])

    def by_autograd_back(nodes: Any) -> None:
        torch.autograd.grad(list(nodes), leaves, of_nodes)

    by_kernels_back(by_kernels())
    return {
        "kernel_by_kernel": (by_kernels, by_kernels_back),
        "program": (by_program, by_program_back),
        "program_with_autograd": (by_autograd, by_autograd_back),
    }, Counting.launches


def timed(
    ways: dict[str, Ways], rounds: int, realtime: bool = False
) -> dict[str, tuple[float, float]]:
    """Milliseconds forward and backward of each way, medians of rounds that take turns.

    As in `timeit`, garbage is not collected meanwhile.
    """
    gc.disable()
    if realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 3):
        for name, (forward, backward) in ways.items():
            start = time.process_time()
            kept = forward()
            middle = time.process_time()
            backward(kept)
            times[name].append((middle - start, time.process_time() - middle))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    gc.enable()
    found = {}
    for name, pairs in times.items():
        forward_ms, backward_ms = (float(v) * 1e3 for v in np.median(pairs[3:], axis=0))
        found[name] = forward_ms, backward_ms
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", help="time one way alone, for example `program`")
    parser.add_argument("--folder", type=Path, help="keep the compiled kernels there")
    parser.add_argument("--realtime", action="store_true", help="measure with real-time priority")
    parser.add_argument("--save", action="store_true", help="append to results/launch_cost.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        use_stub_driver(folder)
        start = time.process_time()
        ways, launches = ways_of()
        first_s = time.process_time() - start
        if arguments.only:
            ways = {arguments.only: ways[arguments.only]}
        found = timed(ways, arguments.rounds, arguments.realtime)
    for name, (forward_ms, backward_ms) in found.items():
        row = {
            "case": "normal_cell", "c": 16, "launches": launches, "first_s": first_s,
            "forward_ms": forward_ms, "backward_ms": backward_ms,
            "us_a_launch": (forward_ms + backward_ms) * 1e3 / launches, "way": name,
            "alone": bool(arguments.only), "realtime": arguments.realtime,
        }  # fmt: skip
        print(" ".join(f"{key}={value}" for key, value in row.items()))
        if arguments.save:
            from results import append_row

            append_row("launch_cost", row, quiet=True)


if __name__ == "__main__":
    main()
