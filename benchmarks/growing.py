"""Claim: what growing a network during its training (`train.grow`) does to its accuracy.

    python benchmarks/growing.py [--space mbconv] [--seeds 4] [--epochs 8] [--samples 1000]

Fashion-MNIST's slice that ships. For each seed one random architecture is trained with the same
number of epochs, the same batches and one learning rate schedule:

- `whole` from the start
- `once`: from its smallest start, and grown to the whole network after half of the steps
- `gradient`: grown after a quarter and a half of the steps, first the half of the places where the
  gradient of what is new is largest
- `random`: the same, with half of the places at random

Accuracy is that of the averaged weights on the test images. Processor time is that of the training.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
from results import append_row

from hwnas.architecture import Architecture
from hwnas.config import TrainConfig, load_config
from hwnas.data import Augmentation, Batches, Dataset, load_dataset
from hwnas.pipeline.train import GROWTH_BATCHES
from hwnas.spaces import build_space
from hwnas.spaces.layers import LayerNetwork
from hwnas.spaces.macro import example_options
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions
from hwnas.training.growing import (
    GrowingSpace,
    gains_of,
    grow,
    grown_at,
    order_of_growth,
    smallest_start,
)
from hwnas.training.train import Training

SIZES = {
    "mbconv": {"layout": "small", "width_multiplier": 0.5},
    "elastic": {"layout": "small", "width_multiplier": 0.5, "expansions": [1, 3, 6]},
    "macro": example_options(),
}
GROWTHS = {"whole": 0, "once": 1, "gradient": 2, "random": 2}


class Growth:
    """Trainings of the networks of one space.

    Args:
        space: the search space.
        dataset: its training samples are learned.
        recipe: settings of the training.
    """

    def __init__(self, space: GrowingSpace, dataset: Dataset, recipe: TrainConfig) -> None:
        self.space, self.dataset, self.recipe = space, dataset, recipe
        self.task = task_of(dataset)

    def training(self, network: LayerNetwork, seed: int, step: int) -> Training:
        recipe = self.recipe
        augment = Augmentation.of(recipe)
        data = self.dataset
        batches = Batches(data.train, data, recipe.batch_size, seed, augment=augment)
        work = Training(network, recipe, batches, seed, self.task.loss)
        work.step = step
        return work

    def network(self, architecture: Architecture, small: LayerNetwork | None) -> LayerNetwork:
        network = self.space.network(architecture)
        assert isinstance(network, LayerNetwork)
        if small is not None:
            grow(small, network)
        return network

    def accuracy(self, way: str, end: Architecture, seed: int) -> float:
        """Train in one of the ways; the test accuracy."""
        torch.manual_seed(seed)
        growths, rng = GROWTHS[way], np.random.default_rng(seed)
        now = smallest_start(self.space, end) if growths else end
        work = self.training(self.network(now, None), seed, 0)
        for number in range(1, growths + 1):
            until = number * work.steps // (2 * growths)
            while work.step < until:
                work.advance()
            names = self.chosen(work, now, end, seed, rng if way == "random" else None)
            names = names[: -(-len(names) // (growths + 1 - number))]
            now = grown_at(self.space, now, end, names)
            assert isinstance(work.network, LayerNetwork)
            work = self.training(self.network(now, work.network), seed, until)
        while work.step < work.steps:
            work.advance()
        found = predictions(work.average, self.dataset.test, self.dataset, torch.device("cpu"))
        return self.task.score(found)

    def chosen(
        self, work: Training, now: Architecture, end: Architecture, seed: int,
        rng: np.random.Generator | None,
    ) -> list[str]:  # fmt: skip
        """The places that can grow, in the order in which they do."""
        small = copy.deepcopy(work.network)
        assert isinstance(small, LayerNetwork)
        probes = [small, self.network(end, small)]
        for network in probes:
            self.training(network, seed, work.step).add_gradients(GROWTH_BATCHES)
        gains = gains_of(*probes)
        order = [name for name, _ in order_of_growth(self.space, now, end, gains)]
        return order if rng is None else [str(name) for name in rng.permutation(order)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=sorted(SIZES), default="mbconv")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(train_limit=arguments.samples)
    channels, height, width = dataset.input_shape
    sizes = {"input_channels": channels, "height": height, "width": width, "classes": 10}
    space = build_space(arguments.space, SIZES[arguments.space] | sizes)
    assert isinstance(space, GrowingSpace)
    recipe = load_config("mbconv_slice").train
    recipe = recipe.model_copy(update={"batch_size": 64, "epochs": arguments.epochs})
    growth = Growth(space, dataset, recipe)
    scores: dict[str, list[float]] = {way: [] for way in GROWTHS}
    spent: dict[str, list[float]] = {way: [] for way in GROWTHS}
    for seed in range(arguments.seeds):
        architecture = space.sample(np.random.default_rng(seed))
        for way in GROWTHS:
            began = time.process_time()
            scores[way].append(growth.accuracy(way, architecture, seed))
            spent[way].append(time.process_time() - began)
            print(seed, way, scores[way][-1], spent[way][-1], flush=True)
    for way in GROWTHS:
        gain = np.array(scores[way]) - np.array(scores["whole"])
        figures = {
            "space": arguments.space,
            "way": way,
            "epochs": arguments.epochs,
            "samples": arguments.samples,
            "seeds": arguments.seeds,
            "accuracy": float(np.mean(scores[way])),
            "gain": float(gain.mean()),
            "error_of_gain": float(gain.std(ddof=1) / len(gain) ** 0.5),
            "cpu_s": float(np.mean(spent[way])),
        }
        append_row("growing", figures, quiet=True)


if __name__ == "__main__":
    main()
