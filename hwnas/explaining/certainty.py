"""How sure a search was of each choice, and whether searches with other seeds agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace

DRAWS = 2000
"""Sets of random architectures from which agreement by chance is estimated."""
STABLE = 0.05
"""A choice is stable if random architectures agree as much with at most this probability."""


@dataclass(frozen=True)
class Certainty:
    """The probabilities of one choice's options at the end of a search, and when it was decided.

    Attributes:
        probability: of the option that was taken.
        rank: 1 if the option that was taken is the most probable one.
        entropy: of the options' probabilities, from 0 (decided) to 1 (uniform).
        decided_at: share of the search, 0 to 1, after which the most probable option was the same
            up to the end.
    """

    probability: float
    rank: int
    entropy: float
    decided_at: float


def certainties(
    space: SearchSpace, architecture: Architecture, steps: Sequence[float], shares: np.ndarray
) -> dict[str, Certainty]:
    """Return how sure a search was of each choice, by its name; empty without records.

    Args:
        space: the search space.
        architecture: what the search found.
        steps: (n,) in increasing order.
        shares: (n, choices, max_options), the probabilities at these steps.
    """
    if not steps:
        return {}
    chosen = space.chosen(architecture)
    found = {}
    for row, choice in enumerate(space.choices):
        options = len(choice.options)
        path = shares[:, row, :options]
        last = path[-1]
        most_probable = path.argmax(axis=1)
        changes = np.flatnonzero(most_probable != most_probable[-1])
        decided = 0 if len(changes) == 0 else int(changes[-1]) + 1
        known = last[last > 0]
        entropy = float(-(known * np.log(known)).sum() / np.log(max(options, 2)))
        rank = 1 + int((last > last[chosen[row]]).sum())
        share = 0.0 if decided == 0 else float(steps[decided] / steps[-1])
        found[choice.name] = Certainty(float(last[chosen[row]]), rank, entropy, share)
    return found


@dataclass(frozen=True)
class Agreement:
    """How far several searches agree on one choice.

    Attributes:
        option: the most frequent option.
        count: number of searches that took it.
        by_chance: probability that as many random architectures agree at least as much.
    """

    option: str
    count: int
    by_chance: float

    @property
    def is_stable(self) -> bool:
        """Whether chance hardly explains the agreement."""
        return self.by_chance <= STABLE


def agreements(
    space: SearchSpace, architectures: Sequence[Architecture], seed: int = 0
) -> dict[str, Agreement]:
    """Return how far searches with different seeds agree on each choice, by its name.

    Chance is what `space.sample` draws, so that options which the structure of the space makes
    frequent count as frequent. The probability is estimated from `DRAWS` sets of as many
    architectures; it is at least 1 / (`DRAWS` + 1).

    Args:
        space: the search space.
        architectures: what each search found, two or more.
        seed: of the random architectures.
    """
    rng = np.random.default_rng(seed)
    count = len(architectures)
    pool = np.array([space.chosen(space.sample(rng)) for _ in range(DRAWS)])
    draws = rng.integers(DRAWS, size=(DRAWS, count))
    found = {}
    for row, choice in enumerate(space.choices):
        votes = Counter(architecture[choice.name] for architecture in architectures)
        option, most = votes.most_common(1)[0]
        sets = pool[draws, row]
        counts = (sets[:, :, None] == np.arange(len(choice.options))).sum(axis=1).max(axis=1)
        by_chance = float((1 + (counts >= most).sum()) / (1 + DRAWS))
        found[choice.name] = Agreement(option, most, by_chance)
    return found


def shared_choices(
    space: SearchSpace, architectures: Sequence[Architecture], seed: int = 0
) -> tuple[float, float]:
    """Return the mean share of choices on which two searches agree, and what chance gives.

    Args:
        space: the search space.
        architectures: what each search found, two or more.
        seed: of the random architectures that stand for chance.
    """
    rng = np.random.default_rng(seed)
    found = np.array([space.chosen(architecture) for architecture in architectures])
    first, second = np.triu_indices(len(found), k=1)
    drawn = np.array([space.chosen(space.sample(rng)) for _ in range(2 * DRAWS)])
    by_chance = (drawn[:DRAWS] == drawn[DRAWS:]).mean()
    return float((found[first] == found[second]).mean()), float(by_chance)
