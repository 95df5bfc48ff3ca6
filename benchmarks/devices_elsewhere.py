"""Claim: a device that is reached over SSH measures what it would measure by itself.

    python benchmarks/devices_elsewhere.py NAME [--operators 8] [--repeats 5] [--save]

NAME is a device of devices.toml that is this machine itself, behind an OpenSSH server on the
loopback address. Tables of the same operators and measurements of the same candidate are made here
and there in turn. Stated are the median ratio of the operators' latencies, the ratio of the speed
reference, and the wall time that a candidate's measurement takes longer there, each as the shortest
of its repeats.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from results import append_row

from hwnas.budget.gate import measure_network
from hwnas.deploy.export import to_onnx
from hwnas.latency_tables.measuring.profiler import profile_operators
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.remote.runtime import RemoteRuntime
from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.profile import operator_module, preparation
from hwnas.spaces import build_space
from hwnas.spaces.base import SearchSpace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--operators", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = build_space("nasbench201", {"channels": 16, "cells": 1})
    here, there = (runtime_on(name, "onnxruntime-cpu", 1) for name in (None, arguments.name))
    there.require()
    pairs = []
    for _ in range(arguments.repeats):
        tables = [table(runtime, space, arguments.operators) for runtime in (here, there)]
        pairs.append(ratios(*tables))
    operators, reference = (float(np.median(values)) for values in zip(*pairs, strict=True))
    seconds = [[candidate_s(r, space) for r in (here, there)] for _ in range(arguments.repeats)]
    # Other work on the machine lengthens single measurements by seconds.
    direct_s, remote_s = (min(values) for values in zip(*seconds, strict=True))
    row = {
        "operators": arguments.operators,
        "repeats": arguments.repeats,
        "ratio_of_operators": round(operators, 4),
        "ratio_of_reference": round(reference, 4),
        "candidate_s": round(direct_s, 3),
        "load": round(os.getloadavg()[0], 1),
        "longer_s": round(remote_s - direct_s, 3),
    }
    print(row)
    if arguments.save:
        append_row("devices_elsewhere", row)


def table(runtime: Runtime, space: SearchSpace, count: int) -> LatencyTable:
    """A table of some operators of the space."""
    return profile_operators(
        sorted(space.all_operators())[:count],
        runtime=runtime,
        build=operator_module,
        to_onnx=to_onnx,
        batch=1,
        definitions={},
    )


def ratios(here: LatencyTable, there: LatencyTable) -> tuple[float, float]:
    """Median ratio of the latencies over the operators, and that of the speed reference."""
    both = [there_ms / here_ms for _, here_ms, there_ms in here.diff(there) if here_ms > 0]
    assert here.reference is not None and there.reference is not None
    reference = np.median(there.reference.sessions_ms) / np.median(here.reference.sessions_ms)
    return float(np.median(both)), float(reference)


def candidate_s(runtime: Runtime, space: SearchSpace) -> float:
    """Seconds that three sessions of one network take, with its export left out."""
    torch.manual_seed(0)
    network = space.network(space.sample(np.random.default_rng(0))).eval()
    prepare = preparation(network, space.options.input_shape, runtime, 1)
    if isinstance(runtime, RemoteRuntime):
        runtime.require()
    start = time.perf_counter()
    measure_network(prepare, runtime, budget_ms=None, seconds=60.0)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
