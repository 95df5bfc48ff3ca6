"""Shared by the tests of the profiler and of runtimes: a quick protocol, operators and inputs."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from hwnas.latency_tables.timing import Protocol

QUICK = Protocol(
    warmup_s=0.001,
    block_ms=0.2,
    blocks_per_round=1,
    min_rounds=5,
    max_rounds=12,
    time_limit_s=30.0,
    max_repeats=0,
)


class Add(nn.Module):
    """An addition with a layer that is never called, for tests that count the costs of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = nn.Bilinear(1, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def rows(batch: int, width: int) -> dict[str, np.ndarray]:
    """Inputs of a model that takes `x` (batch, width); other processes can import this function."""
    return {"x": np.ones((batch, width), np.float32)}
