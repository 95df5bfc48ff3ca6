"""A supernet search on noise, of a few steps."""

from __future__ import annotations

import numpy as np
import torch
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.data import Batches, Dataset, Split
from hwnas.strategies import build_strategy
from hwnas.supernet.search import SupernetSearch

CONFIG = SearchConfig(
    steps=8,
    batch_size=6,
    warmup=0.25,
    learning_rate=0.05,
    settings={"darts": {"learning_rate": 0.2, "beta_decay": 0.1}},
    latency_rate=2.0,
    checkpoint_every=3,
)


def make_search(
    space_name: str, config: SearchConfig, share: float = 0.5, **options: int
) -> SupernetSearch:
    space = tiny_space(space_name, **options)
    cost = CostModel(space, table_of(space, "torch-cpu"))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    rng = np.random.default_rng(0)
    labels = (np.arange(36) % 3).astype(np.int64)
    split = Split(rng.integers(0, 256, (36, 1, 9, 7), dtype=np.uint8), labels)
    dataset = Dataset("noise", ("a", "b", "c"), split, split)
    torch.manual_seed(0)
    batches = [Batches(split, dataset, config.batch_size, seed, augment=None) for seed in (1, 2)]
    limits = [Limit(cost, fastest_ms + share * (slowest_ms - fastest_ms))]
    settings = config.settings.get(config.strategy, {})
    return SupernetSearch(
        space.supernet(config.partial_channels or 1),
        build_strategy(config.strategy, space, 0, settings, Decoder(limits)),
        limits,
        config,
        *batches,
    )
