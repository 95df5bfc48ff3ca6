"""Claim: what searches on CIFAR-10 are worth for searches on CIFAR-100, in NAS-Bench-201.

    python benchmarks/bench_transfer.py STRATEGY [--evaluations 10 30] [--seeds 50]
        [--base evolution] [--searches 3] [--shuffled] [--set key=value ...]

For each seed a base of other searches on CIFAR-10 (100 evaluations each) is made, and the strategy
searches on CIFAR-100 with the base and without it. Accuracies after 12 epochs are seen on both, and
what was chosen is judged by CIFAR-100's test accuracy after 200 epochs. `--shuffled` deals the
base's scores to other architectures of the base: nothing can be learned from it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from results import append_row

from hwnas.architecture import Architecture
from hwnas.config import read_overrides
from hwnas.evaluators.accuracy_table import AccuracyTable
from hwnas.spaces import build_space
from hwnas.strategies import build_strategy
from hwnas.strategies.experience import Experience, earlier_search
from hwnas.studies.nasbench201 import Benchmark

BENCHMARK = "transfer"
BASE_EVALUATIONS = 100
SPACE = build_space("nasbench201", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("strategy")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--base", default="evolution", help="strategy of the base's searches")
    parser.add_argument("--searches", type=int, default=3, help="searches in the base")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--dry", action="store_true", help="print the rows, write nothing")
    arguments = parser.parse_args()
    settings = read_overrides(arguments.set)
    source, target = Benchmark("cifar10"), Benchmark("cifar100")
    bases = [experience(source, arguments, seed) for seed in range(arguments.seeds)]
    for evaluations in arguments.evaluations:
        without, found = (
            np.array(
                [
                    accuracy(target, arguments.strategy, evaluations, seed, settings, base)
                    for seed, base in enumerate(begun)
                ]
            )
            for begun in ([None] * arguments.seeds, bases)
        )
        row: dict[str, Any] = {
            "strategy": " ".join([arguments.strategy, *arguments.set]),
            "base": f"{arguments.searches} {arguments.base}" + " shuffled" * arguments.shuffled,
            "evaluations": evaluations,
            "seeds": arguments.seeds,
            "without": float(without.mean()),
            "error_without": standard_error(without),
            "with_base": float(found.mean()),
            "error_with_base": standard_error(found),
            "gain": float((found - without).mean()),
            "error_of_gain": standard_error(found - without),
            "sources": float(np.mean([len(base.sources) for base in bases])),
        }
        print(row) if arguments.dry else append_row(BENCHMARK, row)


def experience(source: Benchmark, arguments: argparse.Namespace, seed: int) -> Experience:
    """What the base of one seed tells."""
    first = 1000 + seed * arguments.searches
    pairs = [
        pair
        for number in range(first, first + arguments.searches)
        for pair in search(source, arguments.base, BASE_EVALUATIONS, number, {}, None)[0]
    ]
    if arguments.shuffled:
        scores = dict(pairs)
        dealt = np.random.default_rng(seed).permutation(list(scores.values())).tolist()
        pairs = list(zip(scores, dealt, strict=True))
    return Experience(SPACE, [earlier_search(pairs, 1.0, short=True)])


def accuracy(
    target: Benchmark,
    name: str,
    evaluations: int,
    seed: int,
    settings: dict[str, Any],
    base: Experience | None,
) -> float:
    """The test accuracy after 200 epochs of what a search chooses, in percent."""
    chosen = search(target, name, evaluations, seed, settings, base)[1]
    return float(target.accuracy("test", 200)[target.index[chosen]])


def search(
    benchmark: Benchmark,
    name: str,
    evaluations: int,
    seed: int,
    settings: dict[str, Any],
    base: Experience | None,
) -> tuple[list[tuple[Architecture, float]], Architecture]:
    """The scores that a search saw, and what it chose."""
    table = AccuracyTable(benchmark.table.percent)
    strategy = build_strategy(name, SPACE, seed, settings, benchmark.table.decoder)
    if base:
        strategy.begin_from(base)
    seen = []
    for done in range(evaluations):
        mixture = strategy.ask()
        architecture = SPACE.most_likely(mixture)
        outcome = table(architecture)
        strategy.tell(mixture, outcome, (done + 1) / evaluations)
        seen.append((architecture, 1 - outcome.objective))
    return seen, strategy.best(benchmark.table.decoder, 1)[0]


def standard_error(values: np.ndarray) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
