"""Everything that a GPU is needed for, in at most 12 minutes, the most valuable first.

Each part runs in a process of its own with a limit of time. Rows are appended to
results/gpu_first_minutes.csv as they come; a part that fails or runs out of time leaves a row that
says so, and the next one follows. With --dry everything runs on a CPU at the smallest sizes,
without CUDA graphs, and no row is kept.

A mode of torch.compile may take minutes to compile a cell, and each batch size is compiled anew.
So the modes have a part of their own, the quickest to compile first, which leaves rows as soon as
one of them has been timed at one batch size, and ends where its limit is.

    python benchmarks/gpu_first_minutes.py [--dry] [--parts correctness,cells,...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_mixed_op import Case, Tensors, Variant, fused, interleaved, variants_of
from results import append_row
from search_step import SearchStep

from hwnas.latency_tables.devices import cuda_device_name
from hwnas.latency_tables.measuring.energy import energy_counter, measure_energy
from hwnas.latency_tables.runtimes import create_runtime
from hwnas.latency_tables.table import LatencyTable
from hwnas.supernet.graphs import REHEARSALS, CudaRecorder

Row = dict[str, Any]
STEPS_OF_A_SEARCH = 50 * (25_000 // 64)
"""Of DARTS on CIFAR-10: 50 epochs of half the training images, 64 at a time."""
BATCHES = (64, 128, 256)
"""Of the cells that are timed."""
SHORT_RUN = (
    *("search.steps=100", "train.epochs=1", "latency.operator_seconds=0.2"),
    "check.measure_seconds=20",
)
"""Settings of the run whose verdict is kept."""
SHORTEST_RUN = (
    *("space.channels=4", "data.train_limit=200", "data.test_limit=100", "train.epochs=1"),
    *("latency.operator_seconds=0.05", "latency.measure_seconds=1", "check.measure_seconds=2"),
    *("search.steps=2", "search.candidates=1", "search.max_measured=1", "search.ranking_images=50"),
)
"""Settings of the run that is made dry."""


class Part(NamedTuple):
    """A part of the script.

    Attributes:
        seconds: its limit.
        rows: returns its rows, given whether it is run dry.
    """

    seconds: float
    rows: Callable[[bool], Iterator[Row]]


def row(case: str, variant: str, metric: str, value: float | str, **further: Any) -> Row:
    """A row of the results; `low` and `high` are the range of a ratio, or a latency's interval."""
    fields = {"low": "", "high": "", "baseline": ""} | further
    return {"case": case, "variant": variant, "metric": metric, "value": value} | fields


def correctness(dry: bool) -> Iterator[Row]:
    """Largest errors of a cell's nodes and gradients, beside those of plain PyTorch.

    The reference is plain PyTorch in float64 from the same values.
    """
    device = "cpu" if dry else "cuda"
    case = Case("edge", 1, 4, 5) if dry else Case("normal_cell", 4, 16, 16)
    plain = fused("torch", "nothing")
    settings = {"float32": (torch.float32, "ieee"), "tf32": (torch.float32, "tf32")}
    settings |= {"bfloat16": (torch.bfloat16, "ieee"), "float16": (torch.float16, "ieee")}
    for name, (dtype, precision) in settings.items():
        if not dry:
            set_precision(precision)
        tensors = Tensors(case, device, dtype, torch.channels_last)
        exact = rounded_to(dtype, Tensors(case, device, torch.float64, torch.channels_last))
        expected = [*plain(exact), *exact.step(plain)]
        kernels = fused("cpu" if dry else "triton", "nothing")
        errors = [
            [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
            for found in ([*run(tensors), *tensors.step(run)] for run in (kernels, plain))
        ]
        yield row(case.name, name, "relative_error", max(errors[0]))
        yield row(case.name, name, "relative_error_of_pytorch", max(errors[1]))
    if not dry:
        set_precision("ieee")


def set_precision(precision: str) -> None:
    """Round float32 products to TF32 or not, in all of PyTorch: a mixture of both is an error."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    for backend in backends:
        backend.fp32_precision = precision  # type: ignore[attr-defined]


def rounded_to(dtype: torch.dtype, tensors: Tensors) -> Tensors:
    """The same tensors with values that `dtype` can hold."""
    with torch.no_grad():
        for tensor in (*tensors.inputs, tensors.weights, *tensors.parameters, *tensors.gradients):
            tensor.copy_(tensor.to(dtype))
    return tensors


def relative_error(found: torch.Tensor, right: torch.Tensor) -> float:
    """In the Euclidean norm; infinite where a value is not finite."""
    found, right = found.detach().double(), right.detach()
    error = float((found - right).norm() / right.norm().clamp_min(1e-9))
    return error if np.isfinite(error) else float("inf")


def cells(dry: bool) -> Iterator[Row]:
    """Forward and backward of a normal cell against eager versions, without launches too."""
    device, rounds = ("cpu", 1) if dry else ("cuda", 9)
    for case in cases(dry):
        steps = steps_of(variants_of(case, device, torch.float32, compile_too=False))
        graphed = ("eager_channels_last", *(name for name in steps if is_ours(name)))
        steps |= {f"{name}_graphed": captured(steps[name], device) for name in graphed}
        yield from ratios(f"{case.name} n={case.n}", interleaved(steps, rounds, device))


def compiled_cells(dry: bool) -> Iterator[Row]:
    """The same against the modes of `torch.compile`, one at a time; one that fails says so."""
    device, rounds = ("cpu", 1) if dry else ("cuda", 9)
    first = variants_of(cases(dry)[0], device, torch.float32, compile_too=True)
    for mode in [name for name in first if name.startswith("compile")]:
        for case in cases(dry):
            found = variants_of(case, device, torch.float32, compile_too=True)
            steps = steps_of({k: v for k, v in found.items() if k == mode or is_ours(k)})
            name = f"{case.name} n={case.n}"
            try:
                times = interleaved(steps, rounds, device)
            except Exception as error:
                yield row(name, mode, "failure", repr(error)[:300])
            else:
                yield from ratios(name, times)


def cases(dry: bool) -> list[Case]:
    """A normal cell at each batch size, or a small operator."""
    return [Case("edge", 1, 4, 4)] if dry else [Case("normal_cell", n, 16, 32) for n in BATCHES]


def steps_of(variants: dict[str, Variant]) -> dict[str, Callable[[], Any]]:
    """Forward and backward of each variant."""
    return {name: lambda t=t, run=run: t.step(run) for name, (t, run) in variants.items()}


def is_ours(name: str) -> bool:
    """Whether a variant runs the project's kernels."""
    return name.startswith(("cpu", "triton"))


def ratios(case: str, times: dict[str, np.ndarray]) -> Iterator[Row]:
    """Times of all variants, and of ours the paired ratios to every other."""
    for name, ms in times.items():
        yield row(case, name, "ms", float(np.median(ms)))
        for baseline in times if is_ours(name) else ():
            if not is_ours(baseline):
                paired = times[baseline] / ms
                yield row(
                    case, name, "ratio", float(np.median(paired)), baseline=baseline,
                    low=float(paired.min()), high=float(paired.max()),
                )  # fmt: skip


def captured(function: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The function as a CUDA graph; on a CPU itself."""
    if device == "cpu":
        return function
    recorder = CudaRecorder()
    for _ in range(REHEARSALS):
        recorder.rehearse(function)
    replay, _ = recorder.record(function)
    return replay


def search_step(dry: bool) -> Iterator[Row]:
    """A weights and an architecture step of the 8-cell supernet, with and without a graph."""
    device, rounds = ("cpu", 1) if dry else ("cuda", 5)
    ours = "cpu" if dry else "triton"
    steps = {name: search(dry, impl).run for name, impl in ((ours, ours), ("impl_torch", "torch"))}
    yield from ratios("search_step", interleaved(steps, rounds, device))
    steps |= {f"{name}_graphed": captured(run, device) for name, run in list(steps.items())}
    yield from ratios("search_step", interleaved(steps, rounds, device))


def search(dry: bool, impl: str) -> SearchStep:
    """The search step of DARTS on CIFAR-10, or a small one."""
    if dry:
        return SearchStep(2, 4, 8, "cpu", impl, "nothing", cells=3)
    return SearchStep(64, 16, 32, "cuda", impl, "nothing")


def long_search(dry: bool) -> Iterator[Row]:
    """200 steps of a DARTS search at the sizes of CIFAR-10, on random images."""
    steps = 2 if dry else 200
    step = search(dry, "cpu" if dry else "triton")
    step.run()
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step.run()
    wait()
    seconds = time.perf_counter() - start
    yield row(f"search of {steps} steps", "fused", "s", seconds)
    whole = seconds / steps * STEPS_OF_A_SEARCH / 3600
    yield row("search of CIFAR-10, extrapolated from these steps", "fused", "h", whole)


def wait() -> None:
    """Until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def tables(dry: bool) -> Iterator[Row]:
    """Tables of NAS-Bench-201 with ONNX Runtime, audited."""
    runtime = "onnxruntime-cpu" if dry else "onnxruntime-cuda"
    small = "input_channels=3, height=8, width=8, classes=10, cells=1, channels=4"
    sizes = small if dry else "input_channels=3, height=32, width=32, classes=10"
    space = ("--set", f"space={{name='nasbench201', {sizes}}}")
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1,) if dry else (1, 32):
            path = str(Path(folder) / f"{batch}.json")
            seconds, networks, limit = ("0.05", "3", "2") if dry else ("0.2", "12", "6")
            options = ("--runtime", runtime, "--batch", str(batch), "--seconds", seconds)
            hwnas("profile", *space, *options, "--out", path)
            hwnas("table", "audit", path, *space, "-k", networks, "--seconds", limit)
            audit = LatencyTable.load(path).audit
            assert audit is not None
            yield row(f"nasbench201 batch={batch}", runtime, "spearman", audit.spearman)


def verdict(dry: bool) -> Iterator[Row]:
    """A run with a budget, on its own table: the exit code of its verdict, and latencies."""
    device, runtime = ("cpu", "onnxruntime-cpu") if dry else ("cuda", "onnxruntime-cuda")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        options = ["--device", device, "--runtime", runtime, "--out", str(path)]
        for setting in SHORTEST_RUN if dry else SHORT_RUN:
            options += ["--set", setting]
        code = hwnas("run", "nasbench201_slice", *options)
        check = json.loads((path / "check.json").read_text("utf-8"))
    case, latency = "nasbench201_slice, budget", check["measured"]
    yield row(case, runtime, "exit_code_of_verdict", code)
    yield row(case, runtime, "budget_ms", check["budget_ms"])
    yield row(case, runtime, "predicted_ms", check["predicted_ms"])
    yield row(
        case, runtime, "latency_ms", latency["value_ms"],
        low=latency["ci_low_ms"], high=latency["ci_high_ms"],
    )  # fmt: skip


def hwnas(*arguments: str) -> int:
    """Run a command; its exit code is that of a verdict.

    Raises:
        RuntimeError: when it failed.
    """
    command = [sys.executable, "-m", "hwnas", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"hwnas {arguments[0]}: {done.stderr.strip()[-300:]}")
    return done.returncode


def energy(dry: bool) -> Iterator[Row]:
    """Energy of a cell forward and backward, by the counter of the device."""
    runtime = create_runtime("torch-cpu" if dry else "torch-cuda", threads=1)
    counter = energy_counter(runtime)
    if counter is None:
        yield row("energy", runtime.name, "note", "no counter can be read")
        return
    case = Case("edge", 1, 4, 4) if dry else Case("normal_cell", 64, 16, 32)
    tensors = Tensors(case, "cpu" if dry else "cuda", torch.float32, torch.channels_last)
    for impl in ("cpu" if dry else "triton", "torch"):
        (step,) = steps_of({impl: (tensors, fused(impl, "nothing"))}).values()
        step()
        calls, seconds = (1, 0.05) if dry else (20, 2.0)
        latency_ms = runtime.time_block(step, calls) / calls
        found = measure_energy(step, runtime, counter, latency_ms=latency_ms, seconds=seconds)
        yield row(case.name, impl, "mj", found.mj)
        yield row(case.name, impl, "w", found.power_w)


PARTS = {
    "correctness": Part(100, correctness),
    "cells": Part(90, cells),
    "compiled_cells": Part(130, compiled_cells),
    "search_step": Part(80, search_step),
    "long_search": Part(60, long_search),
    "tables": Part(150, tables),
    "verdict": Part(80, verdict),
    "energy": Part(30, energy),
}
"""In order; the limits add up to 12 minutes."""


def run_part(command: list[str], seconds: float, keep: Callable[[Row], None]) -> str | None:
    """Run a part in processes of its own, and keep its rows as they come.

    At its limit the part ends with all processes that it has started.

    Returns:
        What went wrong; None if nothing did.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the number of the process is that of the group of all of them
    )
    limit = threading.Timer(seconds, kill_group, (process.pid,))
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
    limit.start()
    reader.start()
    try:
        for line in process.stdout or ():
            if line.startswith("{"):
                keep(json.loads(line))
        code = process.wait()
    except BaseException:  # an interruption does not reach a session of its own
        kill_group(process.pid)
        raise
    finally:
        in_time = limit.is_alive()
        limit.cancel()
        reader.join()
    if code == 0:
        return None
    if not in_time:
        return f"stopped after {seconds:.0f} s"
    return (errors or ["no message"])[-1].strip()


def kill_group(leader: int) -> None:
    """Kill all processes of a group, if there are any."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def keeper(name: str, dry: bool) -> Callable[[Row], None]:
    """Prints a row of a part, and appends it to the results unless it is dry."""

    def keep(found: Row) -> None:
        print(name, found["case"], found["variant"], found["metric"], found["value"], flush=True)
        if not dry:
            gpu = cuda_device_name() if torch.cuda.is_available() else ""
            append_row("gpu_first_minutes", {"part": name, "gpu": gpu} | found, quiet=True)

    return keep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on a CPU, at the smallest sizes")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--child", choices=PARTS, help="run this part here, rows as JSON")
    arguments = parser.parse_args()
    if arguments.child:
        for found in PARTS[arguments.child].rows(arguments.dry):
            print(json.dumps(found), flush=True)
        return
    for name in arguments.parts.split(","):
        command = [sys.executable, __file__, "--child", name, *["--dry"] * arguments.dry]
        keep = keeper(name, arguments.dry)
        failure = run_part(command, PARTS[name].seconds, keep)
        if failure is not None:
            keep(row(name, "", "failure", failure))


if __name__ == "__main__":
    main()
