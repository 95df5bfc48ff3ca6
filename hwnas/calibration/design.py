"""Selection of the networks to measure for a calibration (optimal experimental design).

For an unknown device, the first networks are the homogeneous ones, in which all choices take the
same option. Then the candidate is added, one at a time, whose measurement reduces the total
predictive variance of the target networks most (active learning by variance reduction: Cohn,
Ghahramani & Jordan, JAIR 4, 1996). The variance includes all uncertainty of the prior, also about
which edges a runtime executes, so networks that distinguish edge rules or devices come early.

If every operator has been measured, only deviations from the sum of operators remain to be learned.
Random networks over the whole range of latencies are best for that, because they resemble the
networks to be predicted. Homogeneous networks would be misleading: graph runtimes compute equal
operators on the same input only once (common subexpression elimination).
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
"""Number of random networks among which those to measure are selected."""
TARGETS = 400
"""Number of random networks whose predictions should become accurate."""
MAX_DRAWS = 100
"""Largest number of random draws per network with a latency near the budget."""
REGION = (0.8, 1.1)
"""Range of predicted latency / budget of networks near the budget."""


def design(
    space: SearchSpace,
    prior: Prior,
    count: int,
    *,
    seed: int = 0,
    limit: Limit | None = None,
) -> list[Architecture]:
    """Select networks to measure, in the order of measurement.

    Args:
        space: the search space.
        prior: prior knowledge about the device.
        count: number of networks.
        seed: seed of the random candidates.
        limit: budget near which predictions should be accurate; None for all networks.

    Returns:
        The homogeneous networks, then the most informative ones in descending order. If the prior
        has all operators, random networks at even quantiles of the predicted latency.
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
    informative = most_informative(
        covariance,
        prior.noise,
        count,
        targets=slice(len(chosen) + len(candidates), None),
        first=range(len(chosen)),
    )
    return [networks[index] for index in informative]


def most_informative(
    covariance: np.ndarray, noise: float, count: int, *, targets: slice, first: Iterable[int] = ()
) -> list[int]:
    """Select networks greedily by the reduction of the targets' total variance.

    Args:
        covariance: (networks, networks) prior covariance of the latencies.
        noise: standard deviation of a measurement.
        count: number of networks to select.
        targets: the target networks, at the end; all networks before them are candidates.
        first: candidates that are selected in any case.

    Returns:
        Indices of the selected candidates, `first` included.
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
    """Return the candidates at even quantiles of the predicted latency."""
    (component,) = prior.components
    predicted = architecture_features(space, candidates, component.edges) @ component.mean
    places = (np.arange(count) + 0.5) / count * len(candidates)
    return [candidates[i] for i in np.argsort(predicted)[places.astype(int)]]


def homogeneous(space: SearchSpace) -> list[Architecture]:
    """Return for each option the network in which every choice that has the option takes it.

    Choices without the option take their first one. If this is not a valid architecture, as in
    DARTS cells, which keep only some of their edges, the option is used on the edges that a random
    network keeps.
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
    """Return the prior covariance (networks, networks) of the latencies of networks."""
    rows = {edges: architecture_features(space, networks, edges) for edges in prior.edges}
    return mixture_covariance(prior, rows)


def mixture_covariance(prior: Prior, rows: Mapping[EdgeRule, np.ndarray]) -> np.ndarray:
    """Return the covariance (networks, networks) of latencies under a Gaussian mixture prior.

    It is the mean covariance of the components plus the covariance of their means.

    Args:
        prior: the prior.
        rows: features (networks, coefficients) under each of its edge rules.
    """
    covariance = sum(
        share * (rows[component.edges] @ component.covariance @ rows[component.edges].T)
        for component, share in zip(prior.components, prior.shares, strict=True)
    )
    means = np.array([rows[component.edges] @ component.mean for component in prior.components])
    centred = means - prior.shares @ means
    total: np.ndarray = covariance + (centred.T * prior.shares) @ centred
    return total


def _measured(covariance: np.ndarray, index: int, noise: float) -> np.ndarray:
    """Return the covariance conditioned on a measurement of one of the networks."""
    column = covariance[:, index]
    variance = (column[index] + noise**2) * (1 + JITTER) + JITTER
    posterior: np.ndarray = covariance - np.outer(column, column) / variance
    return posterior


def _draw(
    space: SearchSpace, rng: np.random.Generator, count: int, limit: Limit | None
) -> list[Architecture]:
    """Draw random networks; with a limit, networks near the budget if there are any."""
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
