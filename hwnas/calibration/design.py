"""Which networks to measure next, so that few measurements teach most.

Of a device of which little is known first the homogeneous ones, where every choice takes the same
option; then, one by one, the candidate whose measurement lowers the predictive variance of the
wanted networks most (active learning by total variance: Cohn, Ghahramani & Jordan, JAIR 4, 1996).
The variance is over all that the prior leaves open, the rules of which edges run included, so that
networks which tell rules or devices apart are among the first.

Where every operator was measured, only what a sum cannot know is left, and that is best learned
from networks like those to be predicted: random ones over the whole range of latencies.
Homogeneous ones would mislead, since graph runtimes run equal operators on equal inputs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.budget.coefficients import JITTER, architecture_features
from hwnas.budget.limit import Limit
from hwnas.calibration.prior import Prior
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.spaces.base import SearchSpace

CANDIDATES = 400
TARGETS = 400
MAX_DRAWS = 100
"""Draws for each network that is to have a latency in the budget's region."""
REGION = (0.8, 1.1)
"""Predicted latency over budget of the networks whose prediction matters."""


def design(
    space: SearchSpace,
    prior: Prior,
    count: int,
    *,
    seed: int = 0,
    limit: Limit | None = None,
) -> list[Architecture]:
    """The networks to measure, most telling first behind the homogeneous ones.

    Args:
        space: the search space.
        prior: what is known, of the device or of devices in general.
        count: how many.
        seed: of the candidates that are looked at.
        limit: a budget whose region the predictions are wanted for; all networks if None.
    """
    rng = np.random.default_rng(seed)
    if prior.measured_operators:
        return _spread(space, prior, _draw(space, rng, max(count, CANDIDATES), limit), count)
    chosen = homogeneous(space)[:count]
    if len(chosen) == count:
        return chosen
    candidates = _draw(space, rng, CANDIDATES, None)
    targets = _draw(space, rng, TARGETS, limit)
    networks = [*chosen, *candidates, *targets]
    covariance = joint_covariance(space, prior, networks)
    telling = most_telling(
        covariance,
        prior.noise,
        count,
        targets=slice(len(chosen) + len(candidates), None),
        first=range(len(chosen)),
    )
    return [networks[index] for index in telling]


def most_telling(
    covariance: np.ndarray, noise: float, count: int, *, targets: slice, first: Iterable[int] = ()
) -> list[int]:
    """Indices of the networks to measure, greedily.

    Args:
        covariance: (networks, networks) of the latencies.
        noise: standard deviation of a measurement.
        count: how many.
        targets: the networks at the end whose predictions matter; the others are candidates.
        first: candidates that are measured anyway.
    """
    taken = list(first)
    for index in taken:
        covariance = _measured(covariance, index, noise)
    while len(taken) < count:
        shared = covariance[targets, : targets.start]
        variance = np.diag(covariance)[: targets.start] + noise**2
        gain = np.square(shared).sum(axis=0) / variance
        gain[taken] = -np.inf
        taken.append(int(gain.argmax()))
        covariance = _measured(covariance, taken[-1], noise)
    return taken


def _spread(
    space: SearchSpace, prior: Prior, candidates: list[Architecture], count: int
) -> list[Architecture]:
    """Candidates at even quantiles of the predicted latency."""
    (component,) = prior.components
    predicted = architecture_features(space, candidates, component.edges) @ component.mean
    places = (np.arange(count) + 0.5) / count * len(candidates)
    return [candidates[i] for i in np.argsort(predicted)[places.astype(int)]]


def homogeneous(space: SearchSpace) -> list[Architecture]:
    """For each option the network that takes it wherever it can, and first options elsewhere.

    Where all choices together are no architecture, as with the kept edges of DARTS cells, the
    option stands on those edges that a random network keeps.
    """
    names = dict.fromkeys(option for choice in space.choices for option in choice.options)
    pattern = dict(space.sample(np.random.default_rng(0)))
    found: dict[Architecture, None] = {}
    for name in names:
        everywhere = {c.name: name if name in c.options else c.options[0] for c in space.choices}
        kept = {c: old if old == "none" else everywhere[c] for c, old in pattern.items()}
        for options in (everywhere, kept):
            try:
                found[space.architecture(options)] = None
                break
            except InputError:
                continue
    return list(found)


def joint_covariance(
    space: SearchSpace, prior: Prior, networks: Sequence[Architecture]
) -> np.ndarray:
    """Covariance of the networks' latencies over a prior's components, (networks, networks)."""
    rows = {edges: architecture_features(space, networks, edges) for edges in prior.edges}
    return mixture_covariance(prior, rows)


def mixture_covariance(prior: Prior, rows: Mapping[EdgeRule, np.ndarray]) -> np.ndarray:
    """Covariance (networks, networks) of latencies, within a prior's components and of their means.

    Args:
        prior: a mixture.
        rows: features (networks, coefficients) under each of its rules.
    """
    covariance = sum(
        share * (rows[component.edges] @ component.covariance @ rows[component.edges].T)
        for component, share in zip(prior.components, prior.shares, strict=True)
    )
    means = np.array([rows[component.edges] @ component.mean for component in prior.components])
    away = means - prior.shares @ means
    return covariance + (away.T * prior.shares) @ away


def _measured(covariance: np.ndarray, index: int, noise: float) -> np.ndarray:
    """What is left when one of the networks has been measured."""
    column = covariance[:, index]
    return covariance - np.outer(column, column) / (
        (column[index] + noise**2) * (1 + JITTER) + JITTER
    )


def _draw(
    space: SearchSpace, rng: np.random.Generator, count: int, limit: Limit | None
) -> list[Architecture]:
    """Random networks, in the region of a budget where one is given and has such networks."""
    found: dict[Architecture, None] = {}
    for _ in range(MAX_DRAWS * count):
        architecture = space.sample(rng)
        if limit is not None:
            share = limit.cost.latency_ms(architecture) / limit.budget_ms
            if not REGION[0] <= share <= REGION[1]:
                continue
        found[architecture] = None
        if len(found) == count:
            break
    return list(found) or _draw(space, rng, count, None)
