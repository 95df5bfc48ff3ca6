"""Supernet searches of a few steps on noise, and their interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.data import Batches, Dataset, Split
from hwnas.runs.progress import silent
from hwnas.runs.run_folder import RunFolder
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
    """Build a search; the budget is at `share` of the range of predicted latencies."""
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


def run_with_interruptions(
    make: Callable[[], SupernetSearch], path: Path, *steps: int
) -> SupernetSearch:
    """Run a search to its end, interrupting and resuming it after each of the given steps."""
    folder = RunFolder(path)
    folder.create()
    for step in steps:

        def interrupt(done: int, total: int, text: str, step: int = step) -> None:
            if done == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            make().run(folder, interrupt)
    resumed = make()
    with silent("search") as advance:
        resumed.run(folder, advance)
    return resumed


def assert_same_weights(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    """Check that parameters and buffers of two modules are bit-identical."""
    state = found.state_dict()
    for name, value in expected.state_dict().items():
        assert torch.equal(state[name], value), name
