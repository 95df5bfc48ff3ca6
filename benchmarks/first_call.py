"""Claim: what the fused mixed operator costs before its first result.

The C++ kernels are compiled as an installation does it, into a temporary folder. Then an edge's
first call (forward and backward) and a later one are timed, each in a fresh process, in turn: the
fused operator, plain PyTorch, and `torch.compile` with empty caches.

    python benchmarks/first_call.py [--processes 5] [--threads 2] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import append_row

HERE = Path(__file__)
ROOT = HERE.parents[1]
IMPLS = ("cpu", "eager_channels_last", "compile")
LATER_CALLS = 5


def compile_kernels_s() -> float:
    """Seconds that building the extension takes, all instruction sets."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "setup.py", "-q", "build_ext"]
        command += ["--build-lib", f"{folder}/lib", "--build-temp", f"{folder}/temp", "--force"]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        if not list(Path(folder).glob("lib/**/_cpu*")):
            sys.exit("the extension was not built")
    return seconds


def measure_calls(impl: str) -> dict[str, float]:
    """Milliseconds of the first call of an implementation, and of a later one, in this process."""
    from bench_mixed_op import Case, Tensors, variants_of

    case = Case("edge", 64, 16, 32)
    tensors, run = variants_of(case, "cpu", torch.float32, compile_too=True)[impl]
    assert isinstance(tensors, Tensors)
    times_ms = []
    for _ in range(1 + LATER_CALLS):
        start = time.perf_counter()
        tensors.step(run)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return {"first_ms": times_ms[0], "later_ms": float(np.median(times_ms[1:]))}


def in_fresh_process(impl: str, threads: int) -> dict[str, float]:
    """`measure_calls` without anything that was compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, str(HERE), "--call", impl, "--threads", str(threads)]
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        finished = subprocess.run(command, env=environment, check=True, capture_output=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5, help="of each implementation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="append to results/first_call.csv")
    parser.add_argument("--call", choices=IMPLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.call:
        print(json.dumps(measure_calls(arguments.call)))
        return
    compile_s = compile_kernels_s()
    found: dict[str, list[dict[str, float]]] = {impl: [] for impl in IMPLS}
    for _ in range(arguments.processes):
        for impl in IMPLS:
            found[impl].append(in_fresh_process(impl, arguments.threads))
    for impl in IMPLS:
        first_ms = [calls["first_ms"] for calls in found[impl]]
        row: dict[str, Any] = {
            "case": "edge n=64 c=16 size=32",
            "impl": impl,
            "threads": arguments.threads,
            "processes": arguments.processes,
            "install_compile_s": compile_s if impl == "cpu" else "",
            "first_ms": float(np.median(first_ms)),
            "first_low_ms": min(first_ms),
            "first_high_ms": max(first_ms),
            "later_ms": float(np.median([calls["later_ms"] for calls in found[impl]])),
        }
        if arguments.save:
            append_row("first_call", row)
        else:
            print(row)


if __name__ == "__main__":
    main()
