"""Claim: whether sub-networks that a search chose beat others with weights of the same supernet.

    python benchmarks/inherited_weights.py elastic_slice vit_slice [--seeds 3] [--tables FOLDER]

A configuration's supernet is trained on single architectures with the sandwich rule and in-place
distillation. Its networks take their weights from it, without further training and with their
batch statistics recalibrated, and are judged on the configuration's test images: the network that
the strategy holds for the best, the best of its candidates by the supernet, the largest within the
budget by parameters and by multiply-accumulates, and ten random ones within the budget that take
at least 90 % of its latency by prediction. One latency table is measured for each configuration
and kept in the folder of tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from results import append_row

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder
from hwnas.config import load_config
from hwnas.controls.decoded import most_macs, most_parameters
from hwnas.data import split_train
from hwnas.pipeline.candidates import Searched
from hwnas.pipeline.run import Run
from hwnas.pipeline.search import search_supernet
from hwnas.pipeline.table import prepare_table
from hwnas.runs.progress import shown
from hwnas.training.evaluate import predictions

RANDOM = 10
USED = 0.9
"""Random networks take at least this share of the budget."""
SHARED = [
    "search.strategy='spos'",
    "search.warmup=0.7",
    "search.sandwich=1",
    "search.distillation=0.5",
    "train.inherit=true",
]
"""What trains supernets whose networks are deployed with their weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        for name in arguments.configs:
            compare(name, seed, arguments.tables / f"{name}.json")


def compare(name: str, seed: int, table: Path) -> None:
    """Search once, and append a row with the accuracies of all networks."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(name, [*SHARED, f"seed={seed}"])
        run = Run.start(config, Path(folder), resume=False, stage=shown)
        run.begin()
        prepare_table(run, table if table.exists() else None)
        if not table.exists():
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_bytes(run.folder.latency_table.read_bytes())
        searched = search_supernet(run, *split_train(run.problem.dataset.train, 0.5, seed))
        limits = run.target.limits()
        decoder, space = Decoder(limits), run.problem.space
        candidates = searched.strategy.best(decoder, config.search.candidates)
        supernet_scores = searched.rank(candidates)
        scores = {
            "decoded": score(run, searched, candidates[0]),
            "ranked": score(run, searched, candidates[int(np.argmax(supernet_scores))]),
            "most_parameters": score(run, searched, most_parameters(space, decoder)),
            "most_macs": score(run, searched, most_macs(space, decoder)),
        }
        random = [score(run, searched, a) for a in near_budget(run, decoder, seed)]
    append_row(
        "inherited_weights",
        {
            "config": name,
            "seed": seed,
            **scores,
            "random_mean": float(np.mean(random)),
            "random_best": float(np.max(random)),
            "random": " ".join(f"{value:.4f}" for value in random),
            "seconds": time.monotonic() - started,
        },
    )


def near_budget(run: Run, decoder: Decoder, seed: int) -> list[Architecture]:
    """Random networks within the budget that use most of it."""
    limit, rng = decoder.limits[0], np.random.default_rng(seed)
    found: list[Architecture] = []
    while len(found) < RANDOM:
        drawn = run.problem.space.sample(rng)
        uses = limit.cost.latency_ms(drawn) >= USED * limit.budget_ms
        if uses and decoder.is_feasible(drawn):
            found.append(drawn)
    return found


def score(run: Run, searched: Searched, architecture: Architecture) -> float:
    """The test score of a network with the supernet's weights."""
    assert searched.weights_of is not None
    network = run.problem.space.network(architecture)
    network.load_state_dict(searched.weights_of(architecture))
    task, test = run.problem.task, run.problem.dataset.test
    return task.score(predictions(network.eval(), test, run.problem.dataset, run.device))


if __name__ == "__main__":
    main()
