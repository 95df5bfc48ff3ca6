"""Claim: how well a rule that chooses a network within a budget does, judged by trained networks.

Draws networks of a configuration's space within its budget in several ways (at random, at random
among those that use 90 % of the budget, the largest by parameters and by multiply-accumulates),
trains each with the configuration's recipe, and writes one line of JSON for each: parameters,
multiply-accumulates, predicted latency, the validation score of a training of one epoch on half of
the training images, the test accuracy after each epoch of the full training.

    python benchmarks/network_bank.py draw CONFIG TABLE.json BANK.jsonl [--rounds 20]
    python benchmarks/network_bank.py rules BANK.jsonl ...

`draw` appends to its file, so it can be interrupted and started again; every round trains one
network of each kind. The test images are the 10,000 of Fashion-MNIST where `HWNAS_DATA` names the
folder with `fashion_mnist.npz`, otherwise those of the configuration. `rules` appends rows to
`results/network_bank.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import append_row
from scipy.stats import spearmanr

from hwnas import load_config
from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.controls.decoded import random_architectures
from hwnas.data import Augmentation, Batches, Split
from hwnas.data.dataset import split_train
from hwnas.evaluators.short_training import ShortTraining
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.problem import Problem, derived_seed
from hwnas.strategies.size_prior import By, largest_networks
from hwnas.training.evaluate import predictions
from hwnas.training.train import Training

USED = 0.9
"""Networks that use the budget take at least this share of it by prediction."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("config")
    drawing.add_argument("table", type=Path)
    drawing.add_argument("bank", type=Path)
    drawing.add_argument("--rounds", type=int, default=20)
    judging = commands.add_parser("rules")
    judging.add_argument("banks", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "draw":
        draw(arguments.config, arguments.table, arguments.bank, arguments.rounds)
    else:
        for bank in arguments.banks:
            judge(bank)


def draw(config_name: str, table: Path, bank: Path, rounds: int) -> None:
    """Train networks of each kind and append them to the bank."""
    config = load_config(config_name)
    problem = Problem(config, config_name)
    cost = CostModel(problem.space, LatencyTable.load(table))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    assert config.budget.fraction is not None
    budget_ms = fastest_ms + config.budget.fraction * (slowest_ms - fastest_ms)
    decoder = Decoder([Limit(cost, budget_ms)])
    kinds = {
        "random": _random(problem, decoder, 0.0, cost, budget_ms),
        "random that uses the budget": _random(problem, decoder, USED, cost, budget_ms),
        "most parameters": _largest(problem, decoder, "parameters"),
        "most MACs": _largest(problem, decoder, "macs"),
    }
    known = read(bank) if bank.exists() else []
    for number in range(rounds):
        for kind, networks in kinds.items():
            architecture = next(networks)
            if any(k["kind"] == kind and k["round"] == number for k in known):
                continue
            params, macs = problem.space.params_and_macs(architecture)
            line = {
                "config": config_name,
                "kind": kind,
                "round": number,
                "genotype": problem.space.to_genotype(architecture),
                "choices": architecture.to_json()["choices"],
                "params": params,
                "macs": macs,
                "budget_ms": budget_ms,
                "predicted_ms": float(cost.predict([architecture])[0][0]),
                "one_epoch": short_training(problem, architecture, seed=number),
                **full_training(problem, architecture, seed=number),
            }
            with bank.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(kind, number, params, f"{line['test'][-1]:.4f}", flush=True)


def _random(
    problem: Problem, decoder: Decoder, used: float, cost: CostModel, budget_ms: float
) -> Iterator[Architecture]:
    """Random architectures within the budget that use at least a share of it."""
    seed = 0
    while True:
        (architecture,) = random_architectures(problem.space, decoder, 1, seed)
        seed += 1
        if cost.predict([architecture])[0][0] >= used * budget_ms:
            yield architecture


def _largest(problem: Problem, decoder: Decoder, by: By) -> Iterator[Architecture]:
    yield from largest_networks(problem.space, decoder, by, seed=0)


def short_training(problem: Problem, architecture: Architecture, seed: int) -> float:
    """The validation score after one epoch on half of the training images."""
    train = problem.config.train
    half, other = split_train(problem.dataset.train, 0.5, seed)
    augment = Augmentation(train.crop_padding, train.flip, train.cutout)
    batches = Batches(half, problem.dataset, train.batch_size, seed, augment=augment)
    settings = train.model_copy(update={"epochs": 1})
    judged = ShortTraining(
        problem.space, settings, batches, other, problem.task, seed, torch.device("cpu")
    )
    return judged(architecture)


def full_training(problem: Problem, architecture: Architecture, seed: int) -> dict[str, Any]:
    """Test accuracies after each epoch of the configuration's training, and its seconds."""
    train = problem.config.train
    augment = Augmentation(train.crop_padding, train.flip, train.cutout)
    data, seed = problem.dataset, derived_seed(seed, "bank")
    batches = Batches(data.train, data, train.batch_size, seed, augment=augment)
    torch.manual_seed(seed)
    network = problem.space.network(architecture).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    work = Training(network, train, batches, seed, problem.task.loss)
    test, accuracies, started = test_images(problem), [], time.process_time()
    while work.step < work.steps:
        work.advance()
        if work.step % batches.steps_per_epoch == 0:
            found = predictions(work.average, test, data, torch.device("cpu"))
            accuracies.append(problem.task.score(found))
    return {"test": accuracies, "seconds": time.process_time() - started}


def test_images(problem: Problem) -> Split:
    """All test images of Fashion-MNIST where they are at hand."""
    folder = os.environ.get("HWNAS_DATA")
    if folder is None or problem.dataset.name != "fashion-mnist-slice":
        return problem.dataset.test
    with np.load(Path(folder) / "fashion_mnist.npz", allow_pickle=False) as file:
        return Split(file["x_test"][:, None], file["y_test"].astype(np.int64))


def read(bank: Path) -> list[dict[str, Any]]:
    """The trained networks of a bank."""
    return [json.loads(line) for line in bank.read_text().splitlines()]


def judge(bank: Path) -> None:
    """Append what each kind of network reaches, and how well each proxy orders all of them."""
    networks = read(bank)
    final = np.array([n["test"][-1] for n in networks])
    for kind in sorted({n["kind"] for n in networks}):
        of_kind = np.array([n["test"][-1] for n in networks if n["kind"] == kind])
        row = {
            "bank": bank.stem,
            "what": f"accuracy, {kind}",
            "n": len(of_kind),
            "value": of_kind.mean(),
            "error": of_kind.std(ddof=1) / np.sqrt(len(of_kind)),
            "deviation": of_kind.std(ddof=1),
            "best": of_kind.max(),
        }
        append_row("network_bank", row)
    proxies = {
        "log parameters": np.log([n["params"] for n in networks]),
        "log MACs": np.log([n["macs"] for n in networks]),
        "predicted latency": np.array([n["predicted_ms"] for n in networks]),
        "one epoch on half": np.array([n["one_epoch"] for n in networks]),
        "test after the first epoch": np.array([n["test"][0] for n in networks]),
    }
    for name, values in proxies.items():
        row = {
            "bank": bank.stem,
            "what": f"rank correlation, {name}",
            "n": len(final),
            "value": float(spearmanr(values, final).statistic),
            "error": "",
            "deviation": "",
            "best": "",
        }
        append_row("network_bank", row)


if __name__ == "__main__":
    main()
