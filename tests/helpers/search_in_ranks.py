"""Supernet searches of a few steps, run by `torchrun` in test_ranks.py; each process saves what it
has. Run alone, it is the reference: whole batches in one process, the halves normalised apart."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.tiny import table_of, tiny_space

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.runs.ranks import Ranks, joined
from hwnas.strategies import build_strategy
from hwnas.supernet.search import SupernetSearch

STEPS = 12
SEARCHES = {
    "first": {"settings": {"darts": {"learning_rate": 0.1}}},
    "second": {"settings": {"darts": {"learning_rate": 0.1}}, "order": 2},
    "progressive": {
        "strategy": "drnas",
        "settings": {"drnas": {"learning_rate": 0.1}},
        "partial_channels": 2,
    },
}
"""Settings by name: gradients of both orders, and a supernet that widens."""


class Batches:
    """Batches of 6 random images, a function of the step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        images = torch.randn(6, 1, 9, 7, generator=generator)
        return images, torch.randint(3, (6,), generator=generator)


class InHalves(nn.Module):
    """A supernet that takes every other image first and then the rest, so that each half has
    batch statistics of its own."""

    def __init__(self, supernet: nn.Module) -> None:
        super().__init__()
        self.supernet = supernet

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        halves = self.supernet(images[::2], mixture), self.supernet(images[1::2], mixture)
        return torch.stack(halves, dim=1).flatten(0, 1)


def searched(name: str, ranks: Ranks) -> dict[str, Tensor]:
    """The parameters at the end of a search."""
    space = tiny_space("nasbench201")
    limit = Limit(CostModel(space, table_of(space)), 1.0)
    config = SearchConfig(steps=STEPS, warmup=0.2, **SEARCHES[name])
    torch.manual_seed(0)
    settings = config.settings[config.strategy]
    strategy = build_strategy(config.strategy, space, 0, settings, Decoder([limit]))
    supernet = space.supernet(config.partial_channels or 1)
    search = SupernetSearch(
        InHalves(supernet) if ranks.size == 1 else supernet,
        strategy,
        [limit],
        config,
        Batches(1),
        Batches(2),
        ranks=ranks,
    )
    for _ in range(STEPS):
        search.advance()
    parameters = {"alpha": strategy.parameters, **dict(supernet.named_parameters())}
    return {name: tensor.detach().contiguous() for name, tensor in parameters.items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with joined() as ranks:
        for name in SEARCHES:
            path = folder / f"{name}-{ranks.size}-{ranks.rank}.safetensors"
            save_file(searched(name, ranks), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
