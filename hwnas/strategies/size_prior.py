"""The size of a network as a prior: within a budget, larger networks tend to be more accurate.

Size is counted as parameters and as multiply-accumulates (MACs). Weights that have no influence on
the output do not count. A strategy uses the prior in two ways: its first proposals are the largest
networks within the budget, which exact decoding finds, and of several random candidates it proposes
the largest. Its evaluations then say where the prior is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder

START = 20
"""Number of the largest networks that a strategy proposes first."""
DRAWS = 10
"""Number of random architectures of which the largest is proposed."""
MUTANTS = 4
"""Number of mutants of which the largest is proposed."""

By = Literal["parameters", "macs", "both"]
COLUMNS: dict[By, tuple[int, ...]] = {"parameters": (0,), "macs": (1,), "both": (0, 1)}
"""The columns of `coefficient_params_and_macs` by which networks are compared."""


def largest_networks(
    space: SearchSpace, decoder: Decoder, by: By = "both", seed: int | None = None
) -> Iterator[Architecture]:
    """Yield the architectures within the budgets, the largest first.

    Args:
        space: the search space.
        decoder: finds architectures within the budgets.
        by: how size is counted; `both` takes turns, beginning with parameters.
        seed: breaks ties at random and saves time, at the price of an order that is exact only to
            within a hundredth; None for the exact order.
    """
    sizes = space.coefficient_params_and_macs
    rankings = [
        decoder.largest(
            sizes[:, column], None if seed is None else np.random.default_rng([seed, column])
        )
        for column in COLUMNS[by]
    ]
    seen: set[Architecture] = set()
    while rankings:
        for ranking in list(rankings):
            found = next((a for a in ranking if a not in seen), None)
            if found is None:
                rankings.remove(ranking)
                continue
            seen.add(found)
            yield found


def log_sizes(space: SearchSpace, architectures: Sequence[Architecture]) -> np.ndarray:
    """Return the logarithms of parameters and MACs, (architectures, 2)."""
    counts = space.coefficient_params_and_macs
    runs = space.run_probability(space.one_hots(architectures)).flatten(start_dim=1).numpy()
    totals = counts[0] + runs @ counts[1 : space.first_shared]
    logs: np.ndarray = np.log(np.maximum(totals, 1.0))
    return logs


def largest_of(space: SearchSpace, architectures: Sequence[Architecture]) -> Architecture:
    """Return the first architecture of the largest product of parameters and MACs."""
    return architectures[int(log_sizes(space, architectures).sum(axis=1).argmax())]
