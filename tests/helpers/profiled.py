"""What the tests of the profiler and of runtimes share: small operators and a quick protocol."""

from __future__ import annotations

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
    """Its layer is never called; it stands for the addition's cost where layers are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = nn.Bilinear(1, 1, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b
