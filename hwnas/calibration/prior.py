"""Prior distributions of a device's latency coefficients, before its networks are measured.

A prior is a Gaussian mixture over coefficients, relative to the mean latency of random networks;
the scale of the device is fitted together with them. It is made from the tables of other devices,
from measured operators of this device, from the table of a similar device, or from operation
counts.

In a prior from other devices, the new device is either similar to one of them or different from
all. Mean and covariance of the other devices alone would place it between them, where few devices
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hwnas.budget.coefficients import architecture_features
from hwnas.budget.cost import CostModel, operator_covariance
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import EDGE_RULES, EdgeRule
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces.base import SearchSpace

REFERENCE_NETWORKS = 500
"""Number of random networks whose mean latency is the unit; enough to use every option."""

# Standard deviations relative to the mean latency, added to the covariance between other devices:
# of the fixed part, of an operator on all edges together, of an operator on one edge, and of the
# mean over devices, which is divided by the square root of their number.
DEVICE_FIXED, DEVICE_OPERATOR, DEVICE_EDGE, DEVICE_MEAN = 0.01, 0.01, 0.002, 0.01
# The same for an edge rule that at most half of the other devices follow.
OTHER_FIXED, OTHER_OPERATOR = 0.3, 0.08
# The same without any table.
WEAK_FIXED, WEAK_OPERATOR, WEAK_EDGE = 0.3, 0.1, 0.02

# Probability that a device is similar to another one, the fraction of the covariance that applies
# to it then, and the standard deviation of its log noise.
ALIKE, ALIKE_COVARIANCE, ALIKE_NOISE_SPREAD = 0.6, 0.1, 0.4
# Standard deviation of the log noise of a device that differs from all others.
UNLIKE_NOISE_SPREAD = 0.7

NOISE, NOISE_SPREAD = 0.03, 1.0
"""Median of a network's relative noise and standard deviation of its logarithm, without devices."""


@dataclass(frozen=True)
class Component:
    """One Gaussian component of a prior.

    Attributes:
        edges: the edge rule, which determines the edges of a cell that the runtime executes.
        mean: (coefficients,) relative to the mean latency.
        covariance: (coefficients, coefficients), likewise.
        probability: weight of the component; the weights need not sum to 1.
        noise: median of the relative noise of a network's latency.
        noise_spread: standard deviation of the logarithm of that noise.
    """

    edges: EdgeRule
    mean: np.ndarray
    covariance: np.ndarray
    probability: float = 1.0
    noise: float = NOISE
    noise_spread: float = NOISE_SPREAD


@dataclass(frozen=True)
class Prior:
    """A Gaussian mixture prior of a device's coefficients.

    Attributes:
        components: components of the mixture.
        typical_ms: smallest and largest mean latency of known devices; None if there are none.
        name: name of the prior, which a calibrated table records.
        measured_operators: whether every operator was measured on this device.
    """

    components: tuple[Component, ...]
    typical_ms: tuple[float, float] | None
    name: str
    measured_operators: bool = False

    @property
    def edges(self) -> tuple[EdgeRule, ...]:
        """The edge rules of the components, without repetition."""
        return tuple(dict.fromkeys(component.edges for component in self.components))

    @property
    def shares(self) -> np.ndarray:
        """Probabilities (components,) that sum to 1."""
        probabilities = np.array([component.probability for component in self.components])
        shares: np.ndarray = probabilities / probabilities.sum()
        return shares

    @property
    def noise(self) -> float:
        """Geometric mean of the components' noise, weighted by their probabilities."""
        noises = [component.noise for component in self.components]
        return float(np.exp(self.shares @ np.log(noises)))


def from_devices(space: SearchSpace, tables: Sequence[LatencyTable]) -> Prior:
    """Make a prior from the tables of other devices.

    It has one component around each device, and one component per edge rule for a device that
    differs from all others.

    Args:
        space: the search space.
        tables: tables that are calibrated for the search space.

    Raises:
        InputError: there are no tables.
    """
    models = [CostModel(space, table) for table in tables]
    if not models:
        raise InputError(
            "there is no table of another device for this search space",
            where=space.name,
            mend="use --prior none",
        )
    scales_ms = [_mean_latency_ms(model) for model in models]
    vectors = np.array(
        [model.coefficients.mean / ms for model, ms in zip(models, scales_ms, strict=True)]
    )
    noises = np.array([model.coefficients.noise for model in models])
    rules = [model.edges for model in models]
    average = DEVICE_MEAN / np.sqrt(len(models))
    spread = np.cov(vectors.T) if len(models) > 1 else np.zeros((vectors.shape[1],) * 2)
    covariance = spread + _grouped(
        space, DEVICE_FIXED + average, DEVICE_OPERATOR + average, DEVICE_EDGE
    )
    components = alike(rules, vectors, covariance, noises)
    for rule in EDGE_RULES:
        of_rule = np.array(rules) == rule
        probability = (1 - ALIKE) * (of_rule.sum() + 1) / (len(models) + len(EDGE_RULES))
        if 2 * of_rule.sum() > len(models):
            mean, wider = vectors[of_rule].mean(axis=0), covariance
        else:
            mean = vectors.mean(axis=0)
            wider = covariance + _grouped(space, OTHER_FIXED, OTHER_OPERATOR, 0.0)
        components.append(unlike(rule, mean, wider, noises, probability))
    return Prior(
        tuple(_possible(space, component) for component in components),
        typical_ms=(min(scales_ms), max(scales_ms)),
        name=f"{len(models)} devices",
    )


def unlike(
    edges: EdgeRule,
    mean: np.ndarray,
    covariance: np.ndarray,
    noises: np.ndarray,
    probability: float,
) -> Component:
    """Return the component of a device that differs from all others.

    Args:
        edges: the edge rule.
        mean: (coefficients,) relative to the mean latency.
        covariance: (coefficients, coefficients).
        noises: (devices,) relative noise of the other devices.
        probability: weight of the component.
    """
    noise = float(np.exp(np.log(noises).mean()))
    return Component(edges, mean, covariance, probability, noise, UNLIKE_NOISE_SPREAD)


def alike(
    rules: Sequence[EdgeRule], vectors: np.ndarray, covariance: np.ndarray, noises: np.ndarray
) -> list[Component]:
    """Return a component around each of the other devices.

    Args:
        rules: the edge rule of each device.
        vectors: (devices, coefficients) relative to the mean latency of each device.
        covariance: (coefficients, coefficients) of a device that differs from all others.
        noises: (devices,) relative noise.
    """
    return [
        Component(
            rule,
            vector,
            ALIKE_COVARIANCE * covariance,
            ALIKE / len(vectors),
            float(noise),
            ALIKE_NOISE_SPREAD,
        )
        for rule, vector, noise in zip(rules, vectors, noises, strict=True)
    ]


def from_table(space: SearchSpace, table: LatencyTable) -> Prior:
    """Make a prior from a table of this device's operators or of a similar device.

    Raises:
        InputError: the table does not fit the search space.
    """
    model = CostModel(space, table)
    scale_ms = _mean_latency_ms(model)
    mean = model.coefficients.mean / scale_ms
    covariance = operator_covariance(space, mean, scale=0.0)
    return Prior(
        (Component(model.edges, mean, covariance),),
        typical_ms=(scale_ms, scale_ms),
        name=f"{table.device.device}, {table.device.runtime}",
        measured_operators=table.calibration is None,
    )


def from_counts(space: SearchSpace) -> Prior:
    """Make a prior without any table.

    Half of the mean latency is proportional to the number of operator launches, and half to the
    number of multiply-accumulate operations.
    """
    counts = space.coefficient_params_and_macs[:, 1].astype(np.float64)
    launch = space.coefficient_launches
    rows = _reference_rows(space, "live")
    mean = 0.5 * counts / (rows @ counts).mean() + 0.5 * launch / (rows @ launch).mean()
    covariance = _grouped(space, WEAK_FIXED, WEAK_OPERATOR, WEAK_EDGE)
    return Prior(
        tuple(_possible(space, Component(rule, mean, covariance)) for rule in EDGE_RULES),
        typical_ms=None,
        name="none",
    )


def _mean_latency_ms(model: CostModel) -> float:
    """Return the predicted mean latency of the reference networks."""
    rows = _reference_rows(model.space, model.edges)
    return float(model.coefficients.latency_ms(rows).mean())


@lru_cache(maxsize=32)
def _reference_rows(space: SearchSpace, edges: EdgeRule) -> np.ndarray:
    """Return the features (networks, coefficients) of random reference networks."""
    rng = np.random.default_rng(0)
    networks = [space.sample(rng) for _ in range(REFERENCE_NETWORKS)]
    return architecture_features(space, networks, edges)


def _grouped(space: SearchSpace, fixed: float, operator: float, edge: float) -> np.ndarray:
    """Return a covariance in which the coefficients of each operator are correlated.

    Args:
        space: the search space.
        fixed: standard deviation of the fixed part.
        operator: standard deviation of an operator's cost that is common to all edges.
        edge: standard deviation of an operator's cost on a single edge.
    """
    names = space.coefficient_options
    size = len(names)
    factors = [np.eye(1, size)[0] * fixed]
    factors.extend(
        operator * np.array([other == name for other in names], dtype=float)
        for name in sorted(set(names) - {""})
    )
    exists = np.array([True, *(name != "" for name in names[1:])])
    stacked = np.array(factors)
    covariance: np.ndarray = stacked.T @ stacked + np.diag(edge**2 * exists)
    return covariance


def _possible(space: SearchSpace, component: Component) -> Component:
    """Return the component with zero cost for options that never run under its edge rule."""
    keep = _reference_rows(space, component.edges).any(axis=0)
    return replace(
        component,
        mean=component.mean * keep,
        covariance=component.covariance * np.outer(keep, keep),
    )
