"""Measure the models beside this file on this machine; needs only onnxruntime and numpy.

    python measure.py [--threads N] [--provider CPUExecutionProvider] [--out results.json]
    python measure.py --model model.onnx        # one finished model, for `hwnas check --measured`

Stop it at any time: what is finished is kept, and the next start goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCK_MS = 1.0
WARM_UP_S = 0.05
MIN_ROUNDS, MAX_ROUNDS = 50, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    parser.add_argument("--device", default=device_name(), help="name of this device")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each model of a group")
    parser.add_argument("--model", help="measure this file instead of the bundle")
    parser.add_argument("--batch", type=int, default=1, help="with --model")
    parser.add_argument("--out", default="results.json")
    arguments = parser.parse_args()
    if arguments.model:
        manifest = None
        groups = [one_model(arguments.model, arguments.batch)]
    else:
        with open(os.path.join(HERE, "manifest.json")) as file:
            manifest = json.load(file)
        groups = manifest["groups"]
    results = start(arguments, manifest)
    for index, group in enumerate(groups):
        if str(index) in results["rounds_ms"]:
            continue
        print(f"group {index + 1} of {len(groups)}: {len(group['models'])} models", flush=True)
        results["rounds_ms"][str(index)] = measure(group["models"], arguments)
        if arguments.model:
            results["model"] = group["models"][0]
        save(results, arguments.out)
    print(f"{arguments.out}: done", flush=True)


def one_model(path: str, batch: int) -> dict[str, Any]:
    """A group of one file, its inputs read from the file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {
        value.name: [batch if not isinstance(size, int) else size for size in value.shape]
        for value in session.get_inputs()
    }
    name = os.path.abspath(path)
    return {"models": [{"name": "model", "file": name, "inputs": inputs, "sha256": digest}]}


def start(arguments: argparse.Namespace, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """New results, or the unfinished ones of the same settings."""
    head = {
        "schema": 1,
        "device": arguments.device,
        "provider": arguments.provider,
        "threads": arguments.threads,
        "versions": {
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "manifest": manifest,
    }
    try:
        with open(arguments.out) as file:
            found = json.load(file)
        if manifest is not None and all(found.get(key) == value for key, value in head.items()):
            return found
    except (OSError, ValueError):
        pass
    return {**head, "rounds_ms": {}}


def measure(models: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Medians of interleaved rounds, in ms a run, by the models' names."""
    calls = {model["name"]: prepared(model, arguments) for model in models}
    counts = {name: warmed_up(call) for name, call in calls.items()}
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + max(arguments.seconds * len(calls), 2.0)
    while len(rounds[models[0]["name"]]) < MAX_ROUNDS:
        for name, call in calls.items():
            rounds[name].append(block_ms(call, counts[name]) / counts[name])
        done = len(rounds[models[0]["name"]])
        if done >= MIN_ROUNDS and time.perf_counter() >= deadline:
            break
    return rounds


def prepared(model: dict[str, Any], arguments: argparse.Namespace) -> Callable[[], None]:
    """A call that runs a model once on random inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    path = model["file"] if os.path.isabs(model["file"]) else os.path.join(HERE, model["file"])
    session = onnxruntime.InferenceSession(path, options, providers=[arguments.provider])
    if session.get_providers()[0] != arguments.provider:
        raise SystemExit(f"{arguments.provider} did not start on this machine")
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in model["inputs"].items()
    }
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def call() -> None:
        session.run_with_iobinding(binding)

    return call


def warmed_up(call: Callable[[], None]) -> int:
    """Run for a while and return how many runs fill a block."""
    call()
    count, end = 1, time.perf_counter() + WARM_UP_S
    while True:
        spent_ms = block_ms(call, count)
        if spent_ms < BLOCK_MS:
            count *= 2
        elif time.perf_counter() >= end:
            return max(1, round(count * BLOCK_MS / spent_ms))


def block_ms(call: Callable[[], None], count: int) -> float:
    start_s = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start_s) * 1e3


def device_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in ("model name", "Model") and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def save(results: dict[str, Any], path: str) -> None:
    """Write beside the file and rename, so that it is whole at any time."""
    temporary = f"{path}.tmp"
    with open(temporary, "w") as file:
        json.dump(results, file)
    os.replace(temporary, path)
    slowest = max(
        statistics.median(figures)
        for group in results["rounds_ms"].values()
        for figures in group.values()
    )
    print(f"  slowest so far {slowest:.3f} ms", flush=True)


if __name__ == "__main__":
    main()
