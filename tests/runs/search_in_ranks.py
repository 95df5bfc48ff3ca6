"""A supernet search of a few steps, run by `torchrun` in test_ranks.py; each process saves what it
has. Run alone, it is the reference: the same halves of each batch, one after the other."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.budget.objectives import updated_multiplier
from hwnas.config import SearchConfig
from hwnas.runs.ranks import Ranks, joined
from hwnas.strategies import build_strategy
from hwnas.supernet.evaluate import evaluate_mixture
from hwnas.supernet.search import SupernetSearch
from hwnas.training.schedule import cosine

STEPS = 12
SPACE = tiny_space("nasbench201")
LIMIT = Limit(CostModel(SPACE, table_of(SPACE)), 1.0)
CONFIG = SearchConfig(steps=STEPS, warmup=0.2)


class Batches:
    """Batches of 6 random images, a function of the step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        images = torch.randn(6, 1, 9, 7, generator=generator, dtype=torch.float64)
        return images, torch.randint(3, (6,), generator=generator)


def new_search(ranks: Ranks) -> SupernetSearch:
    torch.manual_seed(0)
    strategy = build_strategy("darts", SPACE, 0, {"learning_rate": 0.1}, Decoder([LIMIT]))
    supernet = SPACE.supernet().double()
    return SupernetSearch(supernet, strategy, [LIMIT], CONFIG, Batches(1), Batches(2), ranks=ranks)


def reference() -> SupernetSearch:
    """All steps in one process, with the mean of what both halves say."""
    search = new_search(Ranks())
    supernet, strategy = search.supernet.train(), search.strategy
    halves = [slice(0, None, 2), slice(1, None, 2)]
    for step in range(STEPS):
        rate = cosine(CONFIG.learning_rate, CONFIG.learning_rate_min, step / STEPS)
        search.optimizer.param_groups[0]["lr"] = rate
        if step >= search.warmup_steps:
            mixture = strategy.ask()
            images, labels = search.validation.batch(step)
            first, second = (
                evaluate_mixture(
                    supernet,
                    [LIMIT],
                    mixture,
                    (images[half], labels[half]),
                    multiplier=search.multiplier,
                    with_gradient=True,
                )
                for half in halves
            )
            mean = replace(first, gradient=(first.gradient + second.gradient) / 2)
            strategy.tell(mixture, mean, step / STEPS)
            search.multiplier = updated_multiplier(
                search.multiplier, first.ratio, CONFIG.latency_rate
            )
        images, labels = search.training.batch(step)
        mixture = strategy.ask_training().detach()
        search.optimizer.zero_grad()
        for half in halves:
            (F.cross_entropy(supernet(images[half], mixture), labels[half]) / 2).backward()
        torch.nn.utils.clip_grad_norm_(supernet.parameters(), CONFIG.gradient_clip)
        search.optimizer.step()
    return search


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined() as ranks:
        if ranks.size == 1:
            search = reference()
        else:
            search = new_search(ranks)
            for _ in range(STEPS):
                search.advance()
        weights = {name: p.detach() for name, p in search.supernet.named_parameters()}
        weights["alpha"] = search.strategy.parameters.detach()
        save_file(weights, folder / f"{ranks.size}-{ranks.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
