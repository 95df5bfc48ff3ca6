"""Claim: the sum of a table's operators orders networks of the space as the device does.

Measures random networks of a configuration's space, interleaved in one process, and compares
them with the table's prediction; multiply-accumulates and parameters are the controls.

    python benchmarks/latency_prediction.py TABLE.json [--config default] [--networks 20]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from results import append_row
from scipy.stats import kendalltau, spearmanr

from hwnas.budget.cost import CostModel
from hwnas.config import load_config
from hwnas.deploy.export import INPUT, export_network
from hwnas.latency_tables.runtimes import OnnxRuntime, create_runtime
from hwnas.latency_tables.table import LatencyTable
from hwnas.latency_tables.timing import Protocol, measure
from hwnas.profiling import example_images, profiled_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--config", default="default")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()

    config = load_config(arguments.config)
    space = profiled_space(config)
    cost = CostModel(space, LatencyTable.load(arguments.table))
    runtime = create_runtime(config.latency.runtime, config.latency.threads)
    if not isinstance(runtime, OnnxRuntime):
        parser.error("the configuration's runtime must run ONNX files")
    sizes = space.options
    shape = (sizes.input_channels, sizes.height, sizes.width)
    rng = np.random.default_rng(arguments.seed)
    architectures = [space.sample(rng) for _ in range(arguments.networks)]
    torch.manual_seed(arguments.seed)
    images = {INPUT: example_images(config.latency.batch, shape)}
    calls = {}
    for index, architecture in enumerate(architectures):
        model = export_network(space.network(architecture).eval(), shape).SerializeToString()
        calls[str(index)] = runtime.prepare_onnx(model, images)
    rounds = measure(
        calls,
        Protocol(
            min_rounds=40, time_limit_s=arguments.seconds, half_width=0.003, sentinel_drift=10.0
        ),
        statistic=runtime.statistic,
        time_block=runtime.time_block,
    )
    measured = np.array([rounds[str(i)].summary.value_ms for i in range(len(architectures))])
    predicted = np.array([cost.latency_ms(a) for a in architectures])
    counts = np.array([space.params_and_macs(a) for a in architectures])
    ratio = predicted / measured
    scaled = ratio / np.median(ratio)
    row = {
        "space": space.name,
        "runtime": runtime.name,
        "networks": len(architectures),
        "spearman": spearmanr(predicted, measured).statistic,
        "kendall": kendalltau(predicted, measured).statistic,
        "median_error_pct": 100 * np.median(np.abs(ratio - 1)),
        "p95_error_pct": 100 * np.quantile(np.abs(ratio - 1), 0.95),
        "median_ratio": np.median(ratio),
        "median_error_scaled_pct": 100 * np.median(np.abs(scaled - 1)),
        "within_10pct_scaled": float(np.mean(np.abs(scaled - 1) <= 0.1)),
        "spearman_macs": spearmanr(counts[:, 1], measured).statistic,
        "spearman_params": spearmanr(counts[:, 0], measured).statistic,
        "fastest_ms": measured.min(),
        "slowest_ms": measured.max(),
    }
    append_row("latency_prediction", row)


if __name__ == "__main__":
    main()
