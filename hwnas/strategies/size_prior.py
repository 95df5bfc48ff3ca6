"""The size of a network as a prior: within a budget, larger networks tend to be more accurate.

Size is counted as parameters and as multiply-accumulates (MACs). Weights that have no influence on
the output do not count. A strategy uses the prior in two ways: its first proposals are the largest
networks within the budget, which exact decoding finds, and of several random candidates it proposes
the largest. Its evaluations then say where the prior is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
MIN_TRAINED = 4
"""Number of trained networks below which nothing is learned about the effect of size."""
LARGEST_EFFECT = 0.02
"""Standard deviation of the prior of the effect: score of a network of twice the size."""
CAPACITY = 0.1
"""By how much the log error of a short training falls further in a long one, for each standard
deviation of the log of the parameters."""
NOISE = 0.01
"""Standard deviation of a network's score over trainings and samples of images."""

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


def size_moments(space: SearchSpace, networks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard deviations of `log_sizes` over random networks, (2,) each."""
    rng = np.random.default_rng(seed)
    sizes = log_sizes(space, [space.sample(rng) for _ in range(networks)])
    return sizes.mean(axis=0), sizes.std(axis=0) + 1e-12


def largest_of(space: SearchSpace, architectures: Sequence[Architecture]) -> Architecture:
    """Return the first architecture of the largest product of parameters and MACs."""
    return architectures[int(log_sizes(space, architectures).sum(axis=1).argmax())]


@dataclass(frozen=True)
class SizeEffect:
    """What size adds to the scores of trained networks, as far as these tell.

    The score of a network is modelled as a line in its log size, a deviation of the network, and
    noise of its training. The values are the expectations of line and deviation (Fay & Herriot,
    "Estimates of Income for Small Places", JASA 1979). Without effect they are the scores.

    Attributes:
        score_per_doubling: slope of the line, for a network of twice the size.
        trust: share of a network's deviation from the line that is not noise, 0 to 1.
    """

    score_per_doubling: float = 0.0
    trust: float = 1.0

    @classmethod
    def learned(cls, doublings: np.ndarray, scores: np.ndarray) -> SizeEffect:
        """Fit the model to trained networks; fewer than `MIN_TRAINED` have no effect.

        Args:
            doublings: (networks,) sizes from `doublings`.
            scores: (networks,) their scores, 0 to 1.
        """
        if len(scores) < MIN_TRAINED:
            return cls()
        sizes, heights = doublings - doublings.mean(), scores - scores.mean()
        expected = max(float(heights.var()) / 2, NOISE**2) / LARGEST_EFFECT**2
        slope = float(sizes @ heights / (sizes @ sizes + expected))
        deviations = heights - slope * sizes
        variance = max(float(deviations @ deviations) / (len(scores) - 2), 1e-12)
        return cls(slope, max(0.0, variance - NOISE**2) / variance)

    def values(self, doublings: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return what networks that were trained alike are compared by, (networks,)."""
        return self.trust * scores + (1 - self.trust) * self.score_per_doubling * doublings


def doublings(space: SearchSpace, architectures: Sequence[Architecture]) -> np.ndarray:
    """Return the sizes as binary logarithms, the mean of parameters and MACs, (architectures,)."""
    sizes: np.ndarray = log_sizes(space, architectures).mean(axis=1) / np.log(2)
    return sizes
