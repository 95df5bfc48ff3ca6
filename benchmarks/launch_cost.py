"""What the launches of a DARTS cell cost the host, with Triton's own launcher and no GPU.

The kernels are compiled for sm_90 and launched on CPU tensors through a driver that does nothing
(`stub_driver.c`), so what is measured is Python, PyTorch and Triton's launcher. The first
evaluation compiles. All times are CPU time of one thread, medians of the rounds after it.

    python benchmarks/launch_cost.py [--rounds 15] [--save]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch


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


def timed(rounds: int) -> dict[str, Any]:
    """A row: time of the first evaluation, and of forward and backward passes after it."""
    from bench_mixed_op import Case, Tensors

    from hwnas.kernels.fused import FusedCell
    from hwnas.kernels.plan import CellPlan, tensors_of
    from hwnas.kernels.triton.backend import TritonBackend

    class Counting(TritonBackend):
        """Counts launches."""

        launches = 0

        def _launch(self, *arguments: Any, **options: Any) -> None:
            Counting.launches += 1
            super()._launch(*arguments, **options)

    tensors = Tensors(Case("normal_cell", 4, 16, 8), "cpu", torch.float32, torch.channels_last)
    plan = CellPlan.of(CellPlan.describe(2, tensors.edges))
    parameters = [c.tensors[n].detach() for c, n in tensors_of(tensors.edges)[0]]
    backend = Counting()
    states = [torch.zeros(4, 8, 8, 16) for _ in range(6)]
    weights = tensors.weights.detach()
    # Parts of one vector, as the operator of a cell makes them.
    joined = torch.zeros(sum(p.numel() for p in parameters))
    parts = joined.split([p.numel() for p in parameters])
    gradients = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 3):
        Counting.launches = 0
        start = time.process_time()
        _, groups = FusedCell(plan, backend, parameters, None).forward(states[:2], weights)
        middle = time.process_time()
        cell = FusedCell(plan, backend, parameters, None)
        cell.backward(states, groups, weights, states[2:], gradients, [True, True])
        times.append((middle - start, time.process_time() - middle))
    forward, backward = (float(v) * 1e3 for v in np.median(times[3:], axis=0))
    return {
        "case": "normal_cell", "c": 16, "launches": Counting.launches,
        "first_s": sum(times[0]), "forward_ms": forward, "backward_ms": backward,
        "us_a_launch": (forward + backward) * 1e3 / Counting.launches,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="append to results/launch_cost.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        use_stub_driver(Path(folder))
        row = timed(arguments.rounds)
    print(" ".join(f"{key}={value}" for key, value in row.items()))
    if arguments.save:
        from results import append_row

        append_row("launch_cost", row, quiet=True)


if __name__ == "__main__":
    main()
