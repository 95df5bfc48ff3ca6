"""Claim: a discriminator beside the autoencoder makes the images of small generators better.

Networks of `decoder_slice` are trained by its recipe with weights of the discriminator from 0 on,
with the same first weights and batches, and scored on test images: random ones of the space, and
the generator of DCGAN.

    python benchmarks/adversarial.py [--networks dcgan random-0] [--weights 0 0.03 0.1 0.2]
        [--images 4000] [--epochs 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from results import append_row

from hwnas.config import load_config
from hwnas.controls.generators import dcgan
from hwnas.data import Batches
from hwnas.pipeline.problem import data_sizes, read_dataset
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.networks import Network
from hwnas.tasks import task_of
from hwnas.training.evaluate import evaluate
from hwnas.training.train import Training, final_weights

CPU = torch.device("cpu")
WIDTH = 32
"""Of DCGAN's generator."""


def main() -> None:
    """Append a row for each network and weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["dcgan", "random-0"])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.03, 0.1, 0.2])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    limits = [f"data.train_limit={arguments.images}", "data.test_limit=2000"]
    config = load_config("decoder_slice", [*limits, f"train.epochs={arguments.epochs}"])
    task = task_of(read_dataset(config.data, config.seed))
    space = build_space(config.space.name, config.space.options | data_sizes(task))
    dataset, seed = task.dataset, arguments.seed
    batches = Batches(dataset.train, dataset, config.train.batch_size, seed, augment=None)
    for name in arguments.networks:
        for weight in arguments.weights:
            torch.manual_seed(seed)
            network = network_of(space, name)
            recipe = config.train.model_copy(update={"adversarial_weight": weight})
            training = Training(network, recipe, batches, seed, task.loss)
            started = time.process_time()
            while training.step < training.steps:
                training.advance()
            spent_s = time.process_time() - started
            row = {
                "network": name,
                "adversarial_weight": weight,
                "seed": seed,
                "images": arguments.images,
                "steps": training.steps,
                "params": sum(v.numel() for v in final_weights(network).values()),
                "frechet_score": evaluate(training.average, task, CPU)["frechet_score"],
                "processor_ms_per_step": 1000 * spent_s / training.steps,
            }
            append_row("adversarial", row)


def network_of(space: SearchSpace, name: str) -> Network:
    """DCGAN's generator, or the random network `random-SEED` of the space."""
    if name == "dcgan":
        network = dcgan(space.options, WIDTH)
    else:
        rng = np.random.default_rng(int(name.removeprefix("random-")))
        network = space.network(space.sample(rng))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
