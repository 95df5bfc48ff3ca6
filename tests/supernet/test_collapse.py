"""First-order DARTS collapses onto skip connections in a small real search; the default does not.

A supernet that fits its few training images by heart: what has no weights is better on the
validation half (Zela et al., ICLR 2020, arXiv 1909.09656).
"""

from __future__ import annotations

import pytest
import torch
from tiny import table_of

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.config import SearchConfig
from hwnas.data import Batches, load_dataset, split_train
from hwnas.spaces import build_space
from hwnas.strategies import build_strategy
from hwnas.supernet.guard import most_skips
from hwnas.supernet.search import SupernetSearch

SIZES = {"cells": 1, "channels": 4, "input_channels": 1, "height": 28, "width": 28}
FEW = 400
STEPS = 200


def skips(seed: int, settings: dict[str, float]) -> int:
    """Skip connections in the most probable cell after a search without a budget."""
    data = load_dataset("fashion-mnist-slice", None, train_limit=FEW)
    space = build_space("nasbench201", SIZES)
    limits = [Limit(CostModel(space, table_of(space)))]
    training, validation = split_train(data.train, 0.5, seed)
    config = SearchConfig(
        steps=STEPS, batch_size=32, warmup=0.0, learning_rate=0.1, latency_rate=0.0
    )
    torch.manual_seed(seed)
    settings = {"learning_rate": 0.02} | settings
    strategy = build_strategy("darts", space, seed, settings, Decoder(limits))
    search = SupernetSearch(
        space.supernet(),
        strategy,
        limits,
        config,
        Batches(training, data, 32, seed, augment=None),
        Batches(validation, data, 32, seed + 1, augment=None),
    )
    while search.step < STEPS:
        search.advance()
    probabilities = strategy.probabilities()
    return most_skips(space.most_likely(Mixture(probabilities)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_first_order_collapses_and_the_default_does_not(seed: int) -> None:
    assert skips(seed, {"beta_decay": 0.0}) >= 3
    assert skips(seed, {}) < 3
