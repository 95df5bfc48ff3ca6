"""What is known of a device before its networks are measured.

A prior is a mixture of Gaussians over the coefficients of networks whose mean latency is about 1:
the scale of the device is learned with the rest. It comes from the tables of other devices, from a
measured table of operators, from a table of a similar device, or from counting operations.

A device is either like one of the others or unlike all of them. The others' mean and covariance
alone would say that it lies between them, where few devices are.
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
"""Random networks whose mean latency is 1 in a prior; enough to take every option somewhere."""

# Standard deviations relative to the mean latency. Of other devices' coefficients beyond what
# their own covariance says: the fixed part, an operator on all edges together, on one edge; and
# what an average over few devices leaves open, divided by the root of their number.
DEVICE_FIXED, DEVICE_OPERATOR, DEVICE_EDGE, DEVICE_MEAN = 0.01, 0.01, 0.002, 0.01
# Under a rule that none of the other devices follows.
OTHER_FIXED, OTHER_OPERATOR = 0.3, 0.08
# Without any table.
WEAK_FIXED, WEAK_OPERATOR, WEAK_EDGE = 0.3, 0.1, 0.02

# A device that is like another: the probability that it is, the share of the covariance that is
# left, and the log standard deviation of its noise.
ALIKE, ALIKE_COVARIANCE, ALIKE_NOISE_SPREAD = 0.6, 0.1, 0.4
# The log standard deviation of the noise of a device that is like no other.
UNLIKE_NOISE_SPREAD = 0.7

NOISE, NOISE_SPREAD = 0.03, 1.0
"""Median and log standard deviation of a network's noise where no device tells."""


@dataclass(frozen=True)
class Component:
    """One Gaussian of a prior.

    Attributes:
        edges: the rule of which edges run.
        mean: (coefficients,) relative to the mean latency.
        covariance: (coefficients, coefficients).
        probability: relative to the other components'.
        noise: median of the relative noise of one network.
        noise_spread: standard deviation of its logarithm.
    """

    edges: EdgeRule
    mean: np.ndarray
    covariance: np.ndarray
    probability: float = 1.0
    noise: float = NOISE
    noise_spread: float = NOISE_SPREAD


@dataclass(frozen=True)
class Prior:
    """What is known before measuring.

    Attributes:
        components: of the mixture.
        typical_ms: smallest and largest mean latency of known devices, None where none is known.
        name: for the table's record.
        measured_operators: whether every operator was measured on this device.
    """

    components: tuple[Component, ...]
    typical_ms: tuple[float, float] | None
    name: str
    measured_operators: bool = False

    @property
    def edges(self) -> tuple[EdgeRule, ...]:
        """The rules that are possible."""
        return tuple(dict.fromkeys(component.edges for component in self.components))

    @property
    def shares(self) -> np.ndarray:
        """(components,) probabilities that add up to 1."""
        probabilities = np.array([component.probability for component in self.components])
        return probabilities / probabilities.sum()

    @property
    def noise(self) -> float:
        """The components' mean, in logarithms."""
        noises = [component.noise for component in self.components]
        return float(np.exp(self.shares @ np.log(noises)))


def from_devices(space: SearchSpace, tables: Sequence[LatencyTable]) -> Prior:
    """Like one of the other devices, or anything that their coefficients' covariance allows.

    Raises:
        InputError: when no table is calibrated for the space.
    """
    models = [CostModel(space, table) for table in tables]
    if not models:
        raise InputError("no table of another device", where=space.name, mend="use --prior none")
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
    """A device whose noise is about that of the others (devices,)."""
    noise = float(np.exp(np.log(noises).mean()))
    return Component(edges, mean, covariance, probability, noise, UNLIKE_NOISE_SPREAD)


def alike(
    rules: Sequence[EdgeRule], vectors: np.ndarray, covariance: np.ndarray, noises: np.ndarray
) -> list[Component]:
    """A component near each of the other devices.

    Args:
        rules: which edges each device runs.
        vectors: (devices, coefficients) relative to its mean latency.
        covariance: (coefficients, coefficients) of a device that is unlike the others.
        noises: (devices,) relative.
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
    """The operators that a table adds up to, or the calibration of a similar device.

    Raises:
        InputError: when the table does not fit the space.
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
    """Launches and multiply-accumulates, half each: all that is known without any table."""
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
    rows = _reference_rows(model.space, model.edges)
    return float(model.coefficients.latency_ms(rows).mean())


@lru_cache(maxsize=32)
def _reference_rows(space: SearchSpace, edges: EdgeRule) -> np.ndarray:
    rng = np.random.default_rng(0)
    networks = [space.sample(rng) for _ in range(REFERENCE_NETWORKS)]
    return architecture_features(space, networks, edges)


def _grouped(space: SearchSpace, fixed: float, operator: float, edge: float) -> np.ndarray:
    """Covariance with one deviation for an option's name on all edges, and one for each edge."""
    names = space.coefficient_options
    size = len(names)
    factors = [np.eye(1, size)[0] * fixed]
    for name in sorted(set(names) - {""}):
        factors.append(operator * np.array([other == name for other in names], dtype=float))
    exists = np.array([True, *(name != "" for name in names[1:])])
    stacked = np.array(factors)
    return stacked.T @ stacked + np.diag(edge**2 * exists)


def _possible(space: SearchSpace, component: Component) -> Component:
    """Without cost for options that never run under the rule."""
    keep = _reference_rows(space, component.edges).any(axis=0)
    return replace(
        component,
        mean=component.mean * keep,
        covariance=component.covariance * np.outer(keep, keep),
    )
