"""Claim: what a meta-trained start (`hwnas meta-train`) is worth to the search of a new task.

    HWNAS_DATA=... python benchmarks/meta_start.py [--seeds 3] [--steps 1000]
        [--sources cifar fashion]

The new task: four classes of CIFAR-10 at 16x16, 2,000 training images. The starts are trained on
eight tasks of three classes each: of the other six classes of CIFAR-10 (`cifar`), or of
Fashion-MNIST (`fashion`), all with as many training steps of random single architectures:

- `random`: no training at all
- `joint`: one step in a round, which is joint training on all tasks; at the search's learning rate
  and at four times that rate
- `reptile-K`: rounds of K steps

Then the supernet is trained on the new task for some steps. Measured are the accuracies of the
same architectures in the supernet on 500 held-out images, their rank correlation with the
architectures trained from scratch (once, the same for all starts), and the accuracy from scratch of
the one that the supernet ranks first. Means over seeds with standard errors.
"""

from __future__ import annotations

import argparse
import io
import lzma
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results import append_row
from scipy.stats import spearmanr
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.config import SearchConfig, load_config
from hwnas.data import Augmentation, Batches, Dataset, Split, evaluation_batches
from hwnas.spaces import build_space
from hwnas.spaces.base import SearchSpace
from hwnas.supernet.evaluate import rank_architectures
from hwnas.supernet.reptile import Reptile, TaskTraining, random_paths, shared_tensors
from hwnas.supernet.sandwich import Sandwich
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions
from hwnas.training.first_weights import take_weights
from hwnas.training.train import Training

SIDE = 16
SIZES = {"layout": "small", "width_multiplier": 0.5, "stage_layers": 1, "input_channels": 3}
TARGET = (1, 2, 4, 8)
"""Automobile, bird, deer and ship: the classes of the new task."""
TASKS, CLASSES_OF_TASK, IMAGES_OF_CLASS = 8, 3, 500
HELD_OUT = 500
ARCHITECTURES, EPOCHS = 16, 6
MEASURED_STEPS = (0, 50, 200)
STARTS = {"joint": (1, 1.0), "joint-x4": (1, 4.0), "reptile-5": (5, 1.0), "reptile-20": (20, 1.0)}
"""Steps in a round, and the factor of the learning rate."""
CONFIG = SearchConfig(strategy="spos", steps=1, batch_size=32, learning_rate=0.05)


def small_images(source: str) -> Split:
    """Samples of CIFAR-10 or Fashion-MNIST as 16x16 images with three channels."""
    folder = Path(os.environ["HWNAS_DATA"])
    if source == "fashion":
        with np.load(folder / "fashion_mnist.npz", allow_pickle=False) as file:
            images, labels = file["x_train"][:, None], file["y_train"]
        images = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    else:
        packed = lzma.decompress((folder / "cifar10_train_a.npz.xz").read_bytes())
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            images = np.cumsum(np.cumsum(file["dx"], 2, dtype=np.uint8), 3, dtype=np.uint8)
            labels = file["y"]
        images[:, 0] += images[:, 1]
        images[:, 2] += images[:, 1]
    means = images.reshape(*images.shape[:2], SIDE, 2, SIDE, 2).mean(axis=(3, 5))
    rgb = np.broadcast_to(means, (len(means), 3, SIDE, SIDE))
    return Split(np.rint(rgb).astype(np.uint8), labels.astype(np.int64))


def task_data(images: Split, classes: tuple[int, ...], rng: np.random.Generator) -> Dataset:
    """Samples of some classes, numbered from 0: a part to train with, and the rest as test."""
    rows = [rng.permutation(np.flatnonzero(images.targets == one)) for one in classes]

    def part(kept: list[np.ndarray]) -> Split:
        numbers = np.repeat(np.arange(len(classes)), [len(one) for one in kept])
        return Split(images.inputs[np.concatenate(kept)], numbers)

    train = part([one[:IMAGES_OF_CLASS] for one in rows])
    test = part([one[IMAGES_OF_CLASS : 4 * IMAGES_OF_CLASS] for one in rows])
    return Dataset("classes", tuple(map(str, classes)), train, test)


def space_for(classes: int) -> SearchSpace:
    return build_space("mbconv", SIZES | {"height": SIDE, "width": SIDE, "classes": classes})


def training_of(data: Dataset, config: SearchConfig, seed: int) -> TaskTraining:
    space = space_for(len(data.classes))
    batches = Batches(data.train, data, config.batch_size, seed, augment=None)
    return TaskTraining(
        space.supernet(), config, batches, random_paths(space, seed), F.cross_entropy
    )


def start_of(name: str, tasks: list[Dataset], steps: int, seed: int) -> dict[str, Tensor]:
    """The weights of a start."""
    inner_steps, factor = STARTS[name]
    rate = CONFIG.learning_rate * factor
    config = CONFIG.model_copy(update={"learning_rate": rate})
    torch.manual_seed(seed)
    trainings = [training_of(data, config, seed) for data in tasks]
    space = space_for(CLASSES_OF_TASK)
    shared = shared_tensors(
        [one.supernet for one in trainings], space_for(CLASSES_OF_TASK + 1).supernet()
    )
    rounds = steps // inner_steps
    work = Reptile(
        trainings, shared, space, rounds=rounds, inner_steps=inner_steps, rate=1.0, seed=seed
    )
    while work.step < rounds:
        work.advance()
    return work.weights


def from_scratch(data: Dataset, architectures: list[Architecture]) -> np.ndarray:
    """Test accuracies of the architectures' networks."""
    task = task_of(data)
    recipe = load_config("mbconv_slice").train.model_copy(
        update={"batch_size": 32, "epochs": EPOCHS, "crop_padding": 0}
    )
    found = []
    for architecture in architectures:
        torch.manual_seed(0)
        batches = Batches(data.train, data, recipe.batch_size, 0, augment=Augmentation.of(recipe))
        network = space_for(len(TARGET)).network(architecture)
        work = Training(network, recipe, batches, 0, task.loss)
        while work.step < work.steps:
            work.advance()
        outputs = predictions(work.average, data.test, data, torch.device("cpu"))
        found.append(task.score(outputs))
    return np.array(found)


def measured(
    data: Dataset,
    start: dict[str, Tensor],
    architectures: list[Architecture],
    truth: np.ndarray,
    seed: int,
) -> list[tuple[int, float, float, float]]:
    """Steps, mean supernet accuracy, rank correlation, and the best's accuracy from scratch."""
    torch.manual_seed(100 + seed)
    work = training_of(data, CONFIG, 100 + seed)
    take_weights(work.supernet, start)
    space = space_for(len(data.classes))
    sandwich = Sandwich(work.supernet, space, CONFIG, seed, F.cross_entropy)
    held_out = data.test.take(np.random.default_rng(0).permutation(len(data.test))[:HELD_OUT])
    validation = list(evaluation_batches(held_out, data, 250))
    recalibration = [work.batches.batch(10_000 + i) for i in range(4)]
    rows, done = [], 0
    for steps in MEASURED_STEPS:
        if steps > done:
            work.train(sandwich, done, steps - done)
            done = steps
        scores = rank_architectures(
            space, work.supernet, architectures, recalibration=recalibration,
            validation=validation, score=task_of(data).score,
        )  # fmt: skip
        correlation = float(spearmanr(scores, truth).statistic) if np.ptp(scores) else 0.0
        rows.append((steps, float(np.mean(scores)), correlation, float(truth[np.argmax(scores)])))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--sources", nargs="+", default=["cifar", "fashion"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cifar = small_images("cifar")
    target = task_data(cifar, TARGET, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    architectures = [space_for(len(TARGET)).sample(rng) for _ in range(ARCHITECTURES)]
    truth = from_scratch(target, architectures)
    print(f"from scratch: {truth.mean():.4f} on average, best {truth.max():.4f}", flush=True)
    others = tuple(c for c in range(10) if c not in TARGET)
    for source in arguments.sources:
        images = cifar if source == "cifar" else small_images("fashion")
        classes = others if source == "cifar" else tuple(range(10))
        found, spent = defaultdict(list), defaultdict(list)
        for seed in range(arguments.seeds):
            rng = np.random.default_rng([2, seed])
            drawn = [tuple(rng.permutation(classes)[:CLASSES_OF_TASK]) for _ in range(TASKS)]
            tasks = [task_data(images, one, rng) for one in drawn]
            for name in ("random", *STARTS):
                began = time.process_time()
                start = {} if name == "random" else start_of(name, tasks, arguments.steps, seed)
                spent[name].append(time.process_time() - began)
                rows = measured(target, start, architectures, truth, seed)
                print(source, seed, name, rows, flush=True)
                found[name].append(rows)
        for name, values in found.items():
            _append(source, name, np.array(values), arguments, truth, float(np.mean(spent[name])))


def _append(
    source: str, name: str, values: np.ndarray, arguments: argparse.Namespace, truth: np.ndarray,
    cpu_s: float,
) -> None:  # fmt: skip
    """Write a row for each number of steps; values are (seeds, numbers of steps, 4)."""
    for row, steps in enumerate(MEASURED_STEPS):
        means = values[:, row].mean(axis=0)
        errors = values[:, row].std(axis=0, ddof=1) / len(values) ** 0.5
        figures = {"source": source, "start": name, "start_steps": arguments.steps}
        figures |= {"seeds": len(values), "steps": steps, "architectures": len(truth)}
        for index, key in ((1, "accuracy"), (2, "rank_correlation"), (3, "best_from_scratch")):
            figures |= {key: float(means[index]), f"error_of_{key}": float(errors[index])}
        figures |= {"mean_from_scratch": float(truth.mean()), "start_cpu_s": cpu_s}
        append_row("meta_start", figures, quiet=True)


if __name__ == "__main__":
    main()
