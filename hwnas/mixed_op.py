"""One choice of a supernet: the weighted sum of its candidate operators."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build_candidate


class MixedOp(nn.Module):
    """The candidates of one choice, run by `hwnas.kernels.mixed_op`.

    Args:
        specs: one operator for each option, in the order of the options.
        normalise_pools: whether pools are followed by a batch norm.
    """

    def __init__(self, specs: Sequence[OpSpec], *, normalise_pools: bool) -> None:
        super().__init__()
        self.stride = specs[0].stride
        self.momentum = 0.1
        self.candidates = nn.ModuleDict(
            {spec.name: build_candidate(spec, normalise_pools=normalise_pools) for spec in specs}
        )

    def forward(
        self, x: Tensor, mixing_weights: Tensor, active: tuple[int, ...] | None = None
    ) -> Tensor:
        """Mix the candidates' outputs.

        Args:
            x: (N, C, H, W).
            mixing_weights: (options,) or longer; what is beyond the options is ignored.
            active: the options to evaluate, None for all.

        Returns:
            (N, C, ceil(H / stride), ceil(W / stride)).
        """
        candidates = [
            kernels.Candidate(name, dict(module.named_parameters()) | dict(module.named_buffers()))
            for name, module in self.candidates.items()
        ]
        return kernels.mixed_op(
            x,
            mixing_weights[: len(candidates)],
            candidates,
            stride=self.stride,
            training=self.training,
            momentum=self.momentum,
            active=active,
        )
