"""Claim: what growing a network during its training (`train.grow`) does to its accuracy.

    python benchmarks/growing.py [--seeds 5] [--epochs 6] [--samples 2000]

Fashion-MNIST's slice that ships, small inverted bottlenecks. For each seed one random architecture
is trained from the start, and grown from its smallest start after half of the epochs: the same
epochs, batches and seeds. Accuracy is that of the averaged weights on the test images.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from results import append_row

from hwnas.config import load_config
from hwnas.data import Augmentation, Batches, load_dataset
from hwnas.spaces import build_space
from hwnas.spaces.mbconv import MbconvNetwork
from hwnas.tasks import task_of
from hwnas.training.evaluate import predictions
from hwnas.training.growing import grow, smallest_start
from hwnas.training.train import Training

SIZES = {"layout": "small", "width_multiplier": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--samples", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(train_limit=arguments.samples)
    task = task_of(dataset)
    channels, height, width = dataset.input_shape
    sizes = {"input_channels": channels, "height": height, "width": width, "classes": task.outputs}
    space = build_space("mbconv", SIZES | sizes)
    config = load_config("mbconv_slice").train.model_copy(update={"batch_size": 64})

    def trained(network: MbconvNetwork, epochs: int, seed: int) -> Training:
        recipe = config.model_copy(update={"epochs": epochs})
        batches = Batches(
            dataset.train, dataset, recipe.batch_size, seed, augment=Augmentation.of(recipe)
        )
        work = Training(network, recipe, batches, seed, task.loss)
        while work.step < work.steps:
            work.advance()
        return work

    accuracies, seconds = [], []
    for seed in range(arguments.seeds):
        architecture = space.sample(np.random.default_rng(seed))
        start = smallest_start(space, architecture)
        half = arguments.epochs // 2
        pair = []
        for grown in (False, True):
            torch.manual_seed(seed)
            network, began = space.network(architecture), time.process_time()
            assert isinstance(network, MbconvNetwork)
            if grown:
                small = space.network(start)
                assert isinstance(small, MbconvNetwork)
                trained(small, half, seed)
                grow(small, network)
            work = trained(network, arguments.epochs - half * grown, seed)
            found = predictions(work.average, dataset.test, dataset, torch.device("cpu"))
            pair.append((task.score(found), time.process_time() - began))
        accuracies.append([score for score, _ in pair])
        seconds.append([spent for _, spent in pair])
    scores, spent = np.array(accuracies), np.array(seconds)
    gain = scores[:, 1] - scores[:, 0]
    row: dict[str, Any] = {
        "epochs": arguments.epochs,
        "samples": arguments.samples,
        "seeds": arguments.seeds,
        "whole": float(scores[:, 0].mean()),
        "grown": float(scores[:, 1].mean()),
        "gain": float(gain.mean()),
        "error_of_gain": float(gain.std(ddof=1) / len(gain) ** 0.5),
        "cpu_s_whole": float(spent[:, 0].mean()),
        "cpu_s_grown": float(spent[:, 1].mean()),
    }
    append_row("growing", row)


if __name__ == "__main__":
    main()
