"""Expected latency of a mixture, from a table of measured operators."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces.base import SearchSpace


class CostModel:
    """Latency table x search space: a mixture in, expected milliseconds out.

    The expectation is over the operators that run in the deployed network: `expected = scale *
    (fixed_ms + sum_choice sum_option P(option runs) cost_ms[choice, option])`, where the space
    supplies the probability (only the kept edges of a DARTS cell are priced). It is
    differentiable, and exact for a one-hot mixture: the sum of the table's entries.

    Attributes:
        space: the space at its deployed sizes.
        cost_ms: (choices, max_options) milliseconds that an option adds when it runs.
        fixed_ms: milliseconds of what runs in every network.
        scale: measured over predicted latency of whole networks, 1 as the table predicts.
    """

    def __init__(
        self, space: SearchSpace, table: LatencyTable, *, command: str = "hwnas profile"
    ) -> None:
        """Read all the operators' latencies.

        Args:
            space: the search space at its deployed sizes.
            table: measured operators.
            command: what to run when operators are missing, for the error's text.

        Raises:
            InputError: when the table lacks operators of the space.
        """
        table.require(space.all_operators(), command)
        self.space = space
        self.scale = 1.0
        self.fixed_ms = sum(
            count * table.latency_ms(spec) for spec, count in space.fixed_operators().items()
        )
        self.cost_ms = np.zeros((len(space.choices), space.max_options))
        for row, choice in enumerate(space.choices):
            for column in range(len(choice.options)):
                self.cost_ms[row, column] = sum(
                    count * table.latency_ms(spec)
                    for spec, count in space.operators(row, column).items()
                )

    def __call__(self, mixture: Mixture) -> Tensor:
        """Expected latency in milliseconds, a scalar in the mixture's dtype and device."""
        weights = mixture.weights
        cost_ms = torch.as_tensor(self.cost_ms, dtype=weights.dtype, device=weights.device)
        expected = (self.space.run_probability(weights) * cost_ms).sum() + self.fixed_ms
        return expected * self.scale

    def scaled(self, scale: float) -> CostModel:
        """The same model corrected by measured over predicted latency of whole networks."""
        corrected = copy.copy(self)
        corrected.scale = scale
        return corrected

    def latency_ms(self, architecture: Architecture) -> float:
        """Predicted latency of an architecture's network in milliseconds."""
        weights = self.space.one_hot(architecture).weights.double()
        return float(self(Mixture(weights)))

    def operator_latencies_ms(self, architecture: Architecture) -> dict[str, float]:
        """What each choice of an architecture adds, by the choice's name, and `fixed`."""
        weights = self.space.one_hot(architecture).weights.double()
        shares = (self.space.run_probability(weights).numpy() * self.cost_ms).sum(axis=1)
        names = [choice.name for choice in self.space.choices]
        latencies = {"fixed": self.fixed_ms, **dict(zip(names, shares.tolist(), strict=True))}
        return {name: self.scale * value for name, value in latencies.items()}
