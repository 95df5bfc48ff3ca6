"""Claim: what searches with shared weights find where the truth is known, and how they order cells.

    HWNAS_DATA=... python benchmarks/one_shot_truth.py [--methods darts spos ...] [--seeds 5]

The supernet of NAS-Bench-201 is trained on real CIFAR-10 images at a size that a CPU can afford:
one cell in each stage, 16 channels, 16x16 pixels, 12,500 images for the weights and as many for the
architecture. Cells are looked up in the table that ships: test accuracy after 200 epochs.

- How shared weights order cells: the rank correlation of the supernet's accuracies of 500 random
  cells with the truth on CIFAR-10, beside that of their parameters.
- What each search ends with, without a budget and within the latencies that 20, 50 and 80 % of the
  cells keep on three of the shipped devices. There is one search without a budget for each seed;
  the same finished search is decoded for every budget. The cell is chosen by the strategy alone
  (`decoded`), with size beside its scores (`sized`), from its ten best by the supernet (`ranked`),
  or from its five best with size and the five largest by their 12-epoch accuracy on CIFAR-10, as
  if each had been trained (`trained`). The control is the cell with the most parameters within the
  budget (`largest`).

Everything is chosen on CIFAR-10; the figures of CIFAR-100 are for judging. A search that is
finished is not repeated, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import csv
import io
import lzma
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import FOLDER, append_row
from scipy.stats import spearmanr

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.limit import Limit
from hwnas.calibration.make import all_cells
from hwnas.config import SearchConfig
from hwnas.controls.decoded import most_parameters
from hwnas.data import Batches, Dataset, Split, evaluation_batches, split_train
from hwnas.data.nasbench201 import load_nasbench201
from hwnas.evaluators.accuracy_table import TableDecoder
from hwnas.latency_tables.shipped import load_shipped
from hwnas.nn.mixed_op import use_kernels
from hwnas.runs.progress import shown
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import build_space
from hwnas.strategies import build_strategy
from hwnas.strategies.size_prior import largest_networks
from hwnas.supernet.evaluate import rank_architectures
from hwnas.supernet.search import SupernetSearch
from hwnas.tasks import ImageClassification

BENCHMARK = "one_shot_truth"
DEVICES = ("gold_6240", "pixel3", "1080ti_1")
QUANTILES = (0.2, 0.5, 0.8)
CELLS = 500
CANDIDATES = 10
IMAGES = 500
SIZE_WEIGHT = 2.0
SIZE = 16
PROXY = {"cells": 1, "channels": 16, "input_channels": 3, "height": SIZE, "width": SIZE}


@dataclass(frozen=True)
class Method:
    """A strategy with its settings, and what the search has beside the defaults.

    The numbers of steps are about those that take 70 seconds of a core.
    """

    strategy: str
    steps: int
    settings: Mapping[str, Any]
    search: Mapping[str, Any] = field(default_factory=dict)


METHODS = {
    "darts": Method("darts", 600, {"learning_rate": 0.1, "beta_decay": 0.1}),
    "darts with a long warm-up": Method(
        "darts", 800, {"learning_rate": 0.1, "beta_decay": 0.1}, {"warmup": 0.7}
    ),
    "darts with the norm of the Jacobian": Method(
        "darts",
        600,
        {"learning_rate": 0.1, "beta_decay": 0.1},
        {"penalties": {"jacobian": 0.01}},
    ),
    "darts with the trace of the Hessian": Method(
        "darts",
        600,
        {"learning_rate": 0.1, "beta_decay": 0.1},
        {"penalties": {"curvature": 0.01}},
    ),
    "spos": Method("spos", 1800, {"population": 50, "tournament": 10, "train": 0.7}),
    "drnas": Method("drnas", 600, {"learning_rate": 0.1}),
    "gdas": Method("gdas", 1200, {"learning_rate": 0.1}),
    "darts-pt": Method("darts-pt", 600, {"learning_rate": 0.1, "tune": 10}),
}


@dataclass(frozen=True)
class Budget:
    """A device and a latency; no device for none."""

    device: str
    quantile: float
    ms: float
    decoder: TableDecoder
    with_size: TableDecoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/one_shot_truth"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = finished()
    for seed in range(arguments.seeds):
        for name in arguments.methods:
            if (name, str(seed)) not in done:
                for row in judged(name, seed, arguments.runs / f"{name}-{seed}"):
                    append_row(BENCHMARK, row, quiet=True)


def finished() -> set[tuple[str, str]]:
    """The methods and seeds that have rows already."""
    path = FOLDER / f"{BENCHMARK}.csv"
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {(row["method"], row["seed"]) for row in csv.DictReader(file)}


@cache
def cifar10() -> Dataset:
    """25,000 training images and 10,000 test images, made smaller by averaging 2x2 pixels."""
    splits = []
    for name in ("train_a", "test"):
        path = Path(os.environ["HWNAS_DATA"]) / f"cifar10_{name}.npz.xz"
        with np.load(io.BytesIO(lzma.open(path).read()), allow_pickle=False) as file:
            images = np.cumsum(np.cumsum(file["dx"], 2, dtype=np.uint8), 3, dtype=np.uint8)
            labels, names = file["y"].astype(np.int64), tuple(str(c) for c in file["classes"])
        images[:, 0] += images[:, 1]
        images[:, 2] += images[:, 1]
        small = images.reshape(len(images), 3, SIZE, 2, SIZE, 2).mean(axis=(3, 5)).round()
        splits.append(Split(small.astype(np.uint8), labels))
    return Dataset("cifar10", names, *splits)


@cache
def budgets() -> list[Budget]:
    """No budget, and those of the three devices."""
    cells, space = all_cells(build_space("nasbench201")), build_space("nasbench201")
    path = Path(os.environ["HWNAS_DATA"]) / "help_nb201_latency_ms.npz"
    with np.load(path, allow_pickle=False) as file:
        columns = [str(device) for device in file["devices"]]
        latency_ms = file["latency_ms"].astype(np.float64)
    free = TableDecoder(space, cells), TableDecoder(space, cells, size_weight=SIZE_WEIGHT)
    found = [Budget("", 1.0, np.inf, *free)]
    for device in DEVICES:
        of_device = latency_ms[:, columns.index(device)]
        for quantile in QUANTILES:
            ms = float(np.quantile(of_device, quantile))
            decoders = (
                TableDecoder(space, cells, of_device, ms, weight) for weight in (0.0, SIZE_WEIGHT)
            )
            found.append(Budget(device, quantile, ms, *decoders))
    return found


def search(method: Method, seed: int, path: Path) -> SupernetSearch:
    """A search to its end, or as far as its folder does not have it yet."""
    folder = RunFolder(path)
    folder.create()
    data = cifar10()
    training, validation = split_train(data.train, 0.5, seed)
    space = build_space("nasbench201")
    config = SearchConfig(
        strategy=method.strategy,
        steps=method.steps,
        learning_rate=0.1,
        checkpoint_every=200,
        **method.search,
    )
    torch.manual_seed(seed)
    supernet = build_space("nasbench201", PROXY).supernet().to(memory_format=torch.channels_last)
    use_kernels(supernet, config.kernels, config.recompute, config.activation_storage)
    # Without a budget the table of any device will do.
    limits = [Limit(CostModel(space, load_shipped(f"nasbench201-{DEVICES[0]}")))]
    loop = SupernetSearch(
        supernet,
        build_strategy(method.strategy, space, seed, method.settings, budgets()[0].decoder),
        limits,
        config,
        Batches(training, data, config.batch_size, seed, augment=None),
        Batches(validation, data, config.batch_size, seed + 1000, augment=None),
    )
    with shown(path.name) as advance:
        loop.run(folder, advance)
    return loop


def judged(name: str, seed: int, path: Path) -> list[dict[str, Any]]:
    """A search's rows, one for each budget."""
    started = time.monotonic()
    loop = search(METHODS[name], seed, path)
    seconds = time.monotonic() - started
    space, data = build_space("nasbench201"), cifar10()
    training, validation = split_train(data.train, 0.5, seed)
    recalibration = list(evaluation_batches(training.take(np.arange(256)), data, 256))
    images = list(evaluation_batches(validation.take(np.arange(IMAGES)), data, 250))

    @cache
    def score(cell: Architecture) -> float:
        return rank_architectures(
            space,
            loop.supernet,
            [cell],
            recalibration=recalibration,
            validation=images,
            score=ImageClassification(data).score,
        )[0]

    table = load_nasbench201()
    cells = all_cells(space)
    index = {cell: i for i, cell in enumerate(cells)}
    truth = {name: table.accuracy[f"{name}_test_200"].astype(float) for name in ("c10", "c100")}
    early = table.accuracy["c10_val_12"].astype(float)
    drawn = np.random.default_rng(0).choice(len(cells), CELLS, replace=False)
    if not (path / "scores.npy").exists():
        np.save(path / "scores.npy", np.array([score(cells[i]) for i in drawn]))
    scores = np.load(path / "scores.npy", allow_pickle=False)
    params = np.array([space.params_and_macs(cells[i])[0] for i in drawn])
    shared = {
        "method": name,
        "seed": seed,
        "steps": METHODS[name].steps,
        "search_seconds": seconds,
        "rank_correlation": float(spearmanr(scores, truth["c10"][drawn])[0]),
        "rank_correlation_of_parameters": float(spearmanr(params, truth["c10"][drawn])[0]),
        "entropy": loop.strategy.entropy(),
    }
    rows = []
    for budget in budgets():
        decoder = budget.decoder
        best = loop.strategy.best(decoder, CANDIDATES)
        largest = list(islice(largest_networks(space, decoder), CANDIDATES // 2))
        sized = loop.strategy.best(budget.with_size, CANDIDATES // 2)
        pool = dict.fromkeys([*sized, *largest])
        chosen = {
            "decoded": best[0],
            "sized": sized[0],
            "ranked": max(best, key=score),
            "trained": max(pool, key=lambda cell: early[index[cell]]),
            "largest": most_parameters(space, decoder),
        }
        kept = [index[cell] for cell in decoder.kept]
        figures: dict[str, Any] = {"optimum_c100": float(truth["c100"][kept].max())}
        for rule, cell in chosen.items():
            for column in truth:
                figures[f"{rule}_{column}"] = float(truth[column][index[cell]])
        cell = space.to_genotype(best[0])
        of_budget = {"device": budget.device, "quantile": budget.quantile, "budget_ms": budget.ms}
        rows.append(shared | of_budget | figures | {"decoded": cell})
    return rows


if __name__ == "__main__":
    main()
