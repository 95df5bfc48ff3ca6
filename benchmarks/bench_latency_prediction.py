"""Claim: a few measured networks are enough to predict a device's latencies.

    python benchmarks/bench_latency_prediction.py nasbench201   # devices left out by family
    python benchmarks/bench_latency_prediction.py fbnet         # the same, and tables of other GPUs
    python benchmarks/bench_latency_prediction.py here TABLE.json [--config default]

The first two read published latencies from the folder in `HWNAS_DATA`; `here` measures networks of
a configuration's space on this machine, interleaved, and audits the table as it is and calibrated.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from results import append_row
from scipy.stats import spearmanr

from hwnas.architecture import Architecture
from hwnas.budget.coefficients import Coefficients, architecture_features, condition
from hwnas.budget.cost import CostModel
from hwnas.calibration.audit import INTERVAL, audit
from hwnas.calibration.design import (
    CANDIDATES,
    design,
    homogeneous,
    mixture_covariance,
    most_informative,
)
from hwnas.calibration.fit import fit
from hwnas.calibration.make import all_cells, fitted_table
from hwnas.calibration.prior import (
    ALIKE,
    Component,
    Prior,
    alike,
    from_devices,
    from_table,
    unlike,
)
from hwnas.config import load_config
from hwnas.latency_tables.calibration import EDGE_RULES, EdgeRule
from hwnas.latency_tables.shipped import load_shipped
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.profile import measure_networks, profiled_space
from hwnas.spaces import build_space
from hwnas.spaces.base import SearchSpace

BENCHMARK = "latency_prediction"
MEASURED = 10
SEEDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("nasbench201", "fbnet", "here"))
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--config", default="darts_slice")
    parser.add_argument("--networks", type=int, default=30, help="held out, for `here`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    if arguments.which == "nasbench201":
        bench_nasbench201(arguments.seeds)
    elif arguments.which == "fbnet":
        bench_fbnet(arguments.seeds)
    else:
        if arguments.table is None:
            parser.error("which table?")
        bench_here(arguments)


def bench_nasbench201(seeds: int) -> None:
    """Every device with the tables of the other families as prior."""
    latencies_ms, devices = _published("help_nb201_latency_ms.npz")
    space = build_space("nasbench201", {})
    cells = all_cells(space)
    index = {cell: i for i, cell in enumerate(cells)}
    rows = {edges: architecture_features(space, cells, edges) for edges in EDGE_RULES}
    started = time.perf_counter()
    CostModel(space, load_shipped(f"nasbench201-{devices[0]}")).predict(cells)
    predict_s = time.perf_counter() - started
    figures: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for family in dict.fromkeys(_family(d) for d in devices):
        others = [d for d in devices if _family(d) != family]
        prior = from_devices(space, [load_shipped(f"nasbench201-{d}") for d in others])
        for name, networks in _nasbench201_designs(space, prior, cells, seeds):
            taken = [index[network] for network in networks]
            for column, device in enumerate(devices):
                if _family(device) != family:
                    continue
                latency_ms = latencies_ms[:, column]
                fitted = fit(prior, {e: rows[e][taken] for e in EDGE_RULES}, latency_ms[taken])
                found = _figures(fitted.coefficients, rows[fitted.edges], latency_ms)
                figures.setdefault(name, {}).setdefault(device, []).append(found)
    for name, by_device in figures.items():
        means = {device: np.mean(found, axis=0) for device, found in by_device.items()}
        large = [d for d in devices if d.endswith(("_32", "_256"))]
        append_row(
            BENCHMARK,
            {
                "case": "nasbench201, device family left out",
                "networks_measured": name,
                "devices": len(devices),
                "seeds": len(next(iter(by_device.values()))),
                "spearman": float(np.mean([m[0] for m in means.values()])),
                "spearman_worst": float(min(m[0] for m in means.values())),
                "within_10": float(np.mean([m[1] for m in means.values()])),
                "within_10_gpu_batch_32_and_256": float(np.mean([means[d][1] for d in large])),
                "median_error": float(np.mean([m[2] for m in means.values()])),
                "coverage_90": float(np.mean([m[3] for m in means.values()])),
                "predict_all_s": predict_s,
                "by_device": " ".join(f"{d}:{m[0]:.3f}" for d, m in means.items()),
            },
        )


def _nasbench201_designs(
    space: SearchSpace, prior: Prior, cells: list[Architecture], seeds: int
) -> Iterator[tuple[str, list[Architecture]]]:
    """The measured networks, by name of the design and once a seed."""
    yield "5 homogeneous", homogeneous(space)
    for seed in range(seeds):
        yield f"{MEASURED} designed", design(space, prior, MEASURED, seed=seed)
        rng = np.random.default_rng(seed)
        yield f"{MEASURED} random", [cells[i] for i in rng.choice(len(cells), MEASURED, False)]


# The published networks skip layers that change the shape too, which no architecture of the space
# `mbconv` does: their features are coded here, without a cost for the skip.
LAYERS, BLOCKS, SKIP = 22, 9, 8
GPUS = ("1080ti", "2080ti", "titanx", "titanxp")
FIXED, OPERATOR, LAYER, SINGLE = 0.05, 0.1, 0.05, 0.05


def bench_fbnet(seeds: int) -> None:
    """Other devices as prior for 10 networks, and another GPU's table for 5."""
    latencies_ms, devices = _published("help_fbnet_latency_ms.npz")
    with np.load(_data("help_fbnet_latency_ms.npz"), allow_pickle=False) as file:
        taken = file["arch_ops"]
    rows = np.ones((len(taken), 1 + LAYERS * BLOCKS))
    rows[:, 1:] = (taken[:, :, None] == np.arange(BLOCKS)).reshape(len(taken), -1)
    rows[:, 1 + SKIP :: BLOCKS] = 0
    found: dict[str, list[tuple[float, ...]]] = {}
    for column, device in enumerate(devices):
        rng = np.random.default_rng(column)
        others = [i for i, d in enumerate(devices) if _family(d) != _family(device)]
        vectors, noises = _fbnet_devices(rows, latencies_ms, others)
        priors = {"10 designed, other devices": (10, _fbnet_prior(vectors, noises))}
        for other, vector, noise in zip(others, vectors, noises, strict=True):
            name = devices[other]
            gpus = all(_family(d) in GPUS for d in (device, name))
            if gpus and name.split("_")[1] == device.split("_")[1]:
                mean = np.maximum(vector, 0)
                given = Component("live", mean, _fbnet_covariance(mean), noise=float(noise))
                key = f"5 designed, table of another GPU: {name}"
                priors[key] = (5, Prior((given,), None, name))
        for name, (count, prior) in priors.items():
            for _ in range(seeds):
                looked_at = rng.choice(len(rows), 2 * CANDIDATES, replace=False)
                telling = most_informative(
                    mixture_covariance(prior, {"live": rows[looked_at]}),
                    prior.noise,
                    count,
                    targets=slice(CANDIDATES, None),
                )
                some = looked_at[telling]
                fitted = fit(prior, {"live": rows[some]}, latencies_ms[some, column])
                figures = _figures(fitted.coefficients, rows, latencies_ms[:, column])
                found.setdefault(name.split(":")[0], []).append(figures)
    vectors, _ = _fbnet_devices(rows, latencies_ms, list(range(len(devices))))
    ceiling = [
        spearmanr(rows @ vector, latencies_ms[:, i]).statistic for i, vector in enumerate(vectors)
    ]
    for name, values in found.items():
        spearman, within, median, coverage = np.mean(values, axis=0)
        append_row(
            BENCHMARK,
            {
                "case": "fbnet, device family left out",
                "networks_measured": name,
                "devices": len(devices),
                "seeds": seeds,
                "spearman": float(spearman),
                "spearman_worst": float(np.min(values, axis=0)[0]),
                "within_10": float(within),
                "within_10_gpu_batch_32_and_256": "",
                "median_error": float(median),
                "coverage_90": float(coverage),
                "predict_all_s": "",
                "by_device": "fitted to all 5000 networks of all devices: "
                f"spearman {np.mean(ceiling):.3f}",
            },
        )


def _fbnet_prior(vectors: np.ndarray, noises: np.ndarray) -> Prior:
    """What devices, each fitted to all its networks, say of another."""
    mean = vectors.mean(axis=0)
    covariance = np.cov(vectors.T) + _fbnet_covariance(mean)
    rules: list[EdgeRule] = ["live"] * len(vectors)
    components = alike(rules, np.maximum(vectors, 0), covariance, noises)
    other = unlike("live", np.maximum(mean, 0), covariance, noises, 1 - ALIKE)
    return Prior((*components, other), None, "other devices")


def _fbnet_devices(
    rows: np.ndarray, latencies_ms: np.ndarray, devices: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (devices, coefficients) and noises (devices,), relative to mean latencies.

    Each is fitted by itself first, then with what all of them say as prior: some devices'
    latencies have a noise of a fifth.
    """
    rotation, triangle = np.linalg.qr(rows)
    relative = (latencies_ms / latencies_ms.mean(axis=0))[:, devices].T
    square = rows.T @ rows + np.eye(rows.shape[1])
    vectors = np.linalg.solve(square, rows.T @ relative.T).T
    noises = np.maximum(np.std(relative - vectors @ rows.T, axis=1), 1e-3)
    mean = vectors.mean(axis=0)
    covariance = np.cov(vectors.T) + _fbnet_covariance(mean)
    fitted = [
        condition(mean, covariance, triangle, rotation.T @ latency, np.full(len(triangle), noise))
        for latency, noise in zip(relative, noises, strict=True)
    ]
    return np.array([vector for vector, _ in fitted]), noises


def _fbnet_covariance(mean: np.ndarray) -> np.ndarray:
    """Deviations in proportion: of a block, of a layer, of each alone; and the fixed part."""
    block = np.concatenate([[-1], np.tile(np.arange(BLOCKS), LAYERS)])
    layer = np.concatenate([[-1], np.repeat(np.arange(LAYERS), BLOCKS)])
    factors = [FIXED * np.eye(1, len(mean))[0]]
    factors += [OPERATOR * mean * (block == i) for i in range(BLOCKS)]
    factors += [LAYER * mean * (layer == i) for i in range(LAYERS)]
    return np.array(factors).T @ np.array(factors) + np.diag((SINGLE * mean) ** 2)


def bench_here(arguments: argparse.Namespace) -> None:
    """The table as it is, and calibrated with ten designed networks."""
    config = load_config(arguments.config)
    space = profiled_space(config)
    table = LatencyTable.load(arguments.table)
    rng = np.random.default_rng(arguments.seed)
    held_out = [space.sample(rng) for _ in range(arguments.networks)]
    prior = from_table(space, table)
    designed = design(space, prior, MEASURED, seed=arguments.seed)
    measured = measure_networks(
        space.name,
        space.options.model_dump(),
        [*held_out, *designed],
        table.device,
        arguments.seconds,
    )
    latency_ms, designed_ms = measured[: len(held_out)], measured[len(held_out) :]
    calibrated = fitted_table(
        space, prior, designed, designed_ms, table.device.device, arguments.table
    )
    for name, tested in (("0", table), (f"{MEASURED} designed", calibrated)):
        found = audit(space, tested, held_out, latency_ms)
        append_row(
            BENCHMARK,
            {
                "case": f"here, {arguments.config}, {table.device.runtime}, "
                f"macs {found.macs.spearman:.3f}, params {found.params.spearman:.3f}",
                "networks_measured": name,
                "devices": 1,
                "seeds": arguments.seed,
                "spearman": found.spearman,
                "spearman_worst": found.spearman,
                "within_10": found.within_10_percent,
                "within_10_gpu_batch_32_and_256": "",
                "median_error": found.median_error,
                "coverage_90": found.within_90_interval,
                "predict_all_s": "",
                "by_device": f"{len(held_out)} networks held out",
            },
        )


def _figures(
    known: Coefficients, rows: np.ndarray, latency_ms: np.ndarray
) -> tuple[float, float, float, float]:
    """Spearman, share within 10 %, median error, share inside the 90 % interval."""
    expected_ms = known.latency_ms(rows)
    error = np.abs(expected_ms - latency_ms)
    relative = error / np.maximum(latency_ms, 1e-9)
    return (
        float(spearmanr(expected_ms, latency_ms).statistic),
        float(np.mean(relative <= 0.1)),
        float(np.median(relative)),
        float(np.mean(error <= INTERVAL * known.std_ms(rows))),
    )


def _data(name: str) -> Path:
    return Path(os.environ["HWNAS_DATA"]) / name


def _published(name: str) -> tuple[np.ndarray, list[str]]:
    with np.load(_data(name), allow_pickle=False) as file:
        return file["latency_ms"].astype(np.float64), [str(d) for d in file["devices"]]


def _family(device: str) -> str:
    return device.split("_")[0]


if __name__ == "__main__":
    main()
