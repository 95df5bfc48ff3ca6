"""Claim: which measures of theory order the networks of a space by their test error.

    python benchmarks/generalisation.py [--networks 64] [--epochs 4]

Random cells of NAS-Bench-201 (one in each stage, 6 channels) are trained by one recipe on 3,000
images of the Fashion-MNIST slice that ships, halved to 14 x 14 pixels, and tested on its 2,000 test
images. The measures are those of `hwnas diagnose`, on 300 of the training images. A first file has
one row for each network; a second has the rank correlations (Spearman, Kendall) of each measure
with the test error and with the generalisation gap (test error minus training error), with 95 %
intervals by bootstrap over the networks. Training loss and number of parameters are listed beside
them: a measure is worth its cost only if it does better. Networks that were trained before are not
trained again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from results import FOLDER, append_row
from scipy.stats import kendalltau, rankdata, spearmanr

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig
from hwnas.data import Batches, Dataset, Split, load_dataset
from hwnas.deploy.fold import fold_batch_norms
from hwnas.deploy.plain import plain_module
from hwnas.diagnosis.convergence import gradient_noise
from hwnas.diagnosis.measures import (
    Trained,
    curvature_measures,
    generalisation_measures,
    lipschitz_measures,
)
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.networks import Network
from hwnas.training.train import Training

TRAINING, MEASURED = 3000, 300
ROWS, SUMMARY = "generalisation_networks", "generalisation"
BOOTSTRAP = 2000
SIGNS = {
    "margin": -1, "input_margin": -1, "sigma": -1,
    "lipschitz_lower": 1, "lipschitz_median": 1, "lipschitz_upper": 1,
    "eigenvalue": 1, "trace": 1, "sharpness": 1, "gradient_norm": 1, "noise_scale": 1,
    "path_norm": 1, "pac_bayes": 1, "head_rademacher": 1, "random_label_fit": 1,
    "parameters": 1, "training_loss": 1, "training_error": 1,
}  # fmt: skip
"""Each measure, and whether theory says that the error grows or falls with it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--summary", action="store_true", help="only of the networks so far")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.summary:
        summarise(read_rows())
        return
    dataset = halved(load_dataset("fashion-mnist-slice"))
    space = build_space("nasbench201", {"cells": 1, "channels": 6, **sizes(dataset)})
    known = {row["architecture"] for row in read_rows()}
    for architecture in drawn(space, arguments.networks):
        if space.to_genotype(architecture) not in known:
            measure(space, architecture, dataset, arguments.epochs)
    summarise(read_rows()[: arguments.networks])


def halved(dataset: Dataset) -> Dataset:
    """The first training images and all test images, with halved sides."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(dataset.train))[:TRAINING]

    def split(part: Split) -> Split:
        images = torch.from_numpy(part.inputs).float()
        return Split(F.avg_pool2d(images, 2).round().byte().numpy(), part.targets)

    return Dataset(dataset.name, dataset.classes, split(dataset.train.take(chosen)),
                   split(dataset.test))  # fmt: skip


def sizes(dataset: Dataset) -> dict[str, int]:
    channels, height, width = dataset.input_shape
    return {"input_channels": channels, "height": height, "width": width,
            "classes": len(dataset.classes)}  # fmt: skip


def drawn(space: SearchSpace, count: int) -> Iterator[Architecture]:
    """Distinct random cells whose output depends on the input."""
    rng, found = np.random.default_rng(0), set[Architecture]()
    while len(found) < count:
        architecture = space.sample(rng)
        runs = space.run_probability(space.one_hot(architecture).weights)
        if architecture not in found and bool(runs.sum() > 0):
            found.add(architecture)
            yield architecture


def measure(space: SearchSpace, architecture: Architecture, dataset: Dataset, epochs: int) -> None:
    """Train one network, and append a row with its errors and measures."""
    started = time.process_time()
    torch.manual_seed(0)
    network = space.network(architecture)
    initial = copy.deepcopy(network.state_dict())
    config = TrainConfig(epochs=epochs, batch_size=50, learning_rate=0.1, warmup=0.1,
                         label_smoothing=0.0, ema_decay=0.9)  # fmt: skip
    batches = Batches(dataset.train, dataset, config.batch_size, 0, augment=None)
    training = Training(network, config, batches, seed=0)
    while training.step < training.steps:
        training.advance()
    final = training.average
    train_loss, train_error = loss_and_error(final, dataset.train, dataset)
    test_loss, test_error = loss_and_error(final, dataset.test, dataset)
    trained = trained_of(final, initial, dataset)
    lipschitz, curvature = lipschitz_measures(trained, 32), curvature_measures(trained, k=1)
    theory = generalisation_measures(trained, random_labels=100)
    noise = gradient_noise(
        lambda x, y: F.cross_entropy(final(x), y),
        list(final.parameters()),
        [(trained.inputs[i : i + 30], trained.targets[i : i + 30]) for i in range(0, MEASURED, 30)],
    )
    append_row(
        ROWS,
        {
            "architecture": space.to_genotype(architecture),
            "epochs": epochs,
            "test_error": test_error,
            "test_loss": test_loss,
            "training_error": train_error,
            "training_loss": train_loss,
            "parameters": space.params_and_macs(architecture)[0],
            "margin": theory["margins"]["low"],
            "input_margin": theory["input_margins"]["low"],
            "lipschitz_lower": lipschitz["lower"],
            "lipschitz_median": lipschitz["median"],
            "lipschitz_upper": lipschitz["upper"],
            "eigenvalue": curvature["eigenvalues"][0],
            "trace": curvature["trace"],
            "sharpness": curvature["sharpness"],
            "gradient_norm": curvature["gradient_norm"],
            "noise_scale": noise.scale,
            "path_norm": theory["path_norm"],
            "sigma": theory["sigma"],
            "pac_bayes": theory["pac_bayes"],
            "head_rademacher": theory["head_rademacher"],
            "random_label_fit": theory["random_label_fit"],
            "cpu_seconds": time.process_time() - started,
        },
        quiet=True,
    )


def trained_of(network: Network, initial: dict[str, torch.Tensor], dataset: Dataset) -> Trained:
    part = dataset.train.take(np.arange(MEASURED))
    folded = plain_module(fold_batch_norms(network))
    assert isinstance(folded, torch.fx.GraphModule)
    inputs, targets = dataset.normalise(part.inputs), torch.from_numpy(part.targets)
    return Trained(
        network.eval().requires_grad_(), folded, initial, F.cross_entropy, inputs, targets, TRAINING
    )


@torch.no_grad()
def loss_and_error(network: Network, split: Split, dataset: Dataset) -> tuple[float, float]:
    outputs = network.eval()(dataset.normalise(split.inputs))
    targets = torch.from_numpy(split.targets)
    error = (outputs.argmax(dim=1) != targets).double().mean()
    return float(F.cross_entropy(outputs, targets)), float(error)


def read_rows() -> list[dict[str, str]]:
    path = FOLDER / f"{ROWS}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summarise(rows: list[dict[str, str]]) -> None:
    """Append a row with the rank correlations of each measure."""
    errors = np.array([float(row["test_error"]) for row in rows])
    gaps = errors - np.array([float(row["training_error"]) for row in rows])
    for name, sign in SIGNS.items():
        values = [row[name] for row in rows]
        known = np.array([value not in ("None", "nan") for value in values])
        x = np.array([float(v) for v, k in zip(values, known, strict=True) if k])
        figures = {"measure": name, "theory": "error grows" if sign > 0 else "error falls",
                   "networks": len(x)}  # fmt: skip
        for target, y in (("test_error", errors[known]), ("gap", gaps[known])):
            rho, low, high = with_interval(x, y)
            verdict = "none" if low <= 0 <= high else "as theory" if sign * rho > 0 else "opposite"
            figures |= {
                f"spearman_{target}": rho, f"low_{target}": low, f"high_{target}": high,
                f"kendall_{target}": float(kendalltau(x, y).statistic),
                f"correlation_{target}": verdict,
            }  # fmt: skip
        append_row(SUMMARY, figures)


def with_interval(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Spearman's correlation, and its 95 % interval by bootstrap over the networks."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(x), size=(BOOTSTRAP, len(x)))
    a, b = (rankdata(values[draws], axis=1) for values in (x, y))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    found = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    low, high = np.nanquantile(found, (0.025, 0.975))
    return float(spearmanr(x, y).statistic), float(low), float(high)


if __name__ == "__main__":
    main()
