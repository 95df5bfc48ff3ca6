"""What the other options of each choice would have cost and gained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder
from hwnas.budget.limit import Limit
from hwnas.errors import InputError
from hwnas.spaces.base import SearchSpace


@dataclass(frozen=True)
class Alternative:
    """An architecture that takes another option for one choice.

    Attributes:
        choice: name of the choice.
        option: the option that it takes instead.
        architecture: the nearest architecture with that option.
        followers: names of further choices that had to change, since the space allows the option
            only together with others.
        difference_ms: predicted latency minus that of the original.
        deviation_ms: standard deviation of the difference, by the uncertainty of the table.
        params: parameters minus those of the original.
    """

    choice: str
    option: str
    architecture: Architecture
    followers: tuple[str, ...]
    difference_ms: float
    deviation_ms: float
    params: int


def alternatives(cost: CostModel, architecture: Architecture) -> list[Alternative]:
    """Return an alternative for every other option of every choice that is not idle.

    The difference of two predictions is that of the parts that differ, so it is exact where the
    table is; its deviation is d^T C d with the difference d of the features and the covariance C of
    the coefficients.

    Args:
        cost: predicts latencies.
        architecture: the original.
    """
    space = cost.space
    chosen = space.chosen(architecture)
    idle = space.idle(chosen)
    found = []
    for row, choice in enumerate(space.choices):
        if row in idle:
            continue
        for option in range(len(choice.options)):
            if option == chosen[row]:
                continue
            other = with_option(cost, architecture, row, option)
            if other is not None:
                found.append((choice.name, choice.options[option], other))
    if not found:
        return []
    rows = architecture_features(space, [architecture, *(a for *_, a in found)], cost.edges)
    steps = rows[1:] - rows[0]
    variances = np.einsum("ni,ij,nj->n", steps, cost.coefficients.covariance, steps, optimize=True)
    params = space.params_and_macs(architecture)[0]
    return [
        Alternative(
            name,
            option,
            other,
            tuple(c for c in differing(architecture, other) if c != name),
            float(step @ cost.coefficients.mean),
            float(np.sqrt(max(variance, 0.0))),
            space.params_and_macs(other)[0] - params,
        )
        for (name, option, other), step, variance in zip(found, steps, variances, strict=True)
    ]


def with_option(
    cost: CostModel, architecture: Architecture, row: int, option: int
) -> Architecture | None:
    """Return the nearest architecture that takes an option, whatever it costs.

    It differs in as few other choices as the space allows.

    Args:
        cost: of the search space.
        architecture: the original.
        row: index of the choice.
        option: index of the option.

    Returns:
        The architecture, or None if no architecture takes the option.
    """
    space = cost.space
    changed = space.chosen(architecture)
    changed[row] = option
    try:
        return space.architecture(changed)
    except InputError:
        scores = space.one_hot(architecture).weights.double().numpy()
        scores[row, option] += 1 + len(space.choices)
        nearest = Decoder([Limit(cost)]).best(scores)[0]
        return nearest if space.chosen(nearest)[row] == option else None


def differing(one: Architecture, other: Architecture) -> list[str]:
    """Return the names of the choices for which two architectures take different options."""
    return [name for (name, a), (_, b) in zip(one, other, strict=True) if a != b]


def paired_difference(scores: np.ndarray, reference: np.ndarray) -> tuple[float, float | None]:
    """Return the mean difference of two networks' scores on the same blocks of samples.

    Args:
        scores: (blocks,), of blocks of equal size.
        reference: (blocks,), of the other network.

    Returns:
        The difference, and its standard error; None for a single block.
    """
    differences = scores - reference
    if len(differences) < 2:
        return float(differences.mean()), None
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean()), float(error)


def random_architectures(
    space: SearchSpace, count: int, rng: np.random.Generator
) -> list[Architecture]:
    """Draw distinct random architectures; fewer in a space that has not as many."""
    drawn: dict[Architecture, None] = {}
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        drawn[space.sample(rng)] = None
    return list(drawn)
