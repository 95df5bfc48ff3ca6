"""Claim: a search of settings mends a spoiled default learning rate.

On three data sets, the learning rate of the shipped configuration is multiplied or divided by 30.
Each method trains the same random architectures, one after the other, for the same number of
epochs, and takes the pair of architecture and learning rate with the best score on held-out
samples:

    spoiled    the spoiled learning rate for all
    recipe     `search.recipe` with the spoiled value as its prior
    uniform    `search.recipe` without a prior
    grid       learning rates that divide the logarithm of the range evenly, in random order

The chosen pair is trained on all training samples, and its test score is the row's figure. All
methods have the same number of evaluations, and so the same time.

    python benchmarks/recipe_search.py [--trials 12] [--seeds 0 1] [--methods grid recipe] [NAME]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from results import append_row

from hwnas.architecture import Architecture
from hwnas.config import Config, RangeConfig, TrainConfig, load_config
from hwnas.data import Batches, Dataset, Split, split_train
from hwnas.evaluators.recipes import Recipes
from hwnas.evaluators.short_training import ShortTraining
from hwnas.pipeline.problem import data_sizes, read_dataset
from hwnas.spaces import SearchSpace, build_space
from hwnas.tasks import task_of

NAMES = ("sequence_likes", "sequence_ratings", "sequence_text")
METHODS = ("spoiled", "grid", "uniform", "recipe")
LIMITS = ["data.train_limit=800", "data.test_limit=1000"]
LOW, HIGH = 1e-5, 10.0
SPOILED = 30.0
EPOCHS = 3


def main() -> None:
    """Append a row for each data set, factor, method and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        config = load_config(name, LIMITS)
        dataset = read_dataset(config.data, config.seed)
        for seed in arguments.seeds:
            study = Study(config, dataset, seed, arguments.trials)
            for factor, method in study.methods():
                if method not in arguments.methods:
                    continue
                started = time.monotonic()
                score, rate, validation = study.result(factor, method)
                append_row(
                    "recipe_search",
                    {
                        "data": dataset.name,
                        "metric": study.task.metric,
                        "method": method,
                        "factor": factor,
                        "seed": seed,
                        "trials": arguments.trials,
                        "epochs": EPOCHS,
                        "learning_rate": rate,
                        "validation_score": validation,
                        "test_score": score,
                        "seconds": time.monotonic() - started,
                    },
                )


class Study:
    """The same architectures, data and trainings for all methods."""

    def __init__(self, config: Config, dataset: Dataset, seed: int, trials: int) -> None:
        self.dataset, self.seed, self.task = dataset, seed, task_of(dataset)
        self.train = config.train.model_copy(update={"epochs": EPOCHS})
        self.space: SearchSpace = build_space(
            config.space.name, config.space.options | data_sizes(self.task)
        )
        rng = np.random.default_rng(seed)
        self.architectures = [self.space.sample(rng) for _ in range(trials)]
        self.parts = split_train(dataset.train, 0.5, seed)

    def methods(self) -> Iterator[tuple[float, str]]:
        """Factor of the learning rate, and method, of each row."""
        yield 1.0, "spoiled"  # the default as it ships
        yield 1.0, "grid"
        yield 1.0, "uniform"
        for factor in (SPOILED, 1 / SPOILED):
            yield factor, "spoiled"
            yield factor, "recipe"

    def result(self, factor: float, method: str) -> tuple[float, float, float]:
        """Test score and learning rate of what a method chooses, and its validation score."""
        rate = self.train.learning_rate * factor
        prior = min(max(rate, LOW), HIGH) if method == "recipe" else None
        ranges = {"learning_rate": RangeConfig(low=LOW, high=HIGH, log=True, prior=prior)}
        recipes = Recipes(ranges, self.seed)
        tried: list[tuple[float, float, Architecture]] = []
        for architecture, own in zip(self.architectures, self._rates(), strict=True):
            if method in ("recipe", "uniform"):
                searching = replace(self._evaluator(*self.parts, self.train), recipes=recipes)
                searching.batches_of = lambda config: self._batches(self.parts[0], config)
                score = searching(architecture)
                own = recipes.trials[-1][0]["learning_rate"]
            else:
                own = own if method == "grid" else rate
                config = self.train.model_copy(update={"learning_rate": own})
                score = self._evaluator(*self.parts, config)(architecture)
            tried.append((score, own, architecture))
        best, own, architecture = max(tried, key=lambda one: one[0])
        config = self.train.model_copy(update={"learning_rate": own})
        final = self._evaluator(self.dataset.train, self.dataset.test, config)
        return final(architecture), own, best

    def _rates(self) -> list[float]:
        """The learning rates of the grid in random order, so that none goes with one size."""
        rates = np.geomspace(LOW, HIGH, len(self.architectures))
        return [float(r) for r in np.random.default_rng(self.seed + 1).permutation(rates)]

    def _batches(self, split: Split, config: TrainConfig) -> Batches:
        return Batches(split, self.dataset, config.batch_size, self.seed, augment=None)

    def _evaluator(self, training: Split, judged: Split, config: TrainConfig) -> ShortTraining:
        batches = self._batches(training, config)
        cpu = torch.device("cpu")
        return ShortTraining(self.space, config, batches, judged, self.task, self.seed, cpu)


if __name__ == "__main__":
    main()
