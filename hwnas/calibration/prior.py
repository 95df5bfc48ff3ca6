"""What is known of a device before its networks are measured.

A prior is a Gaussian over the coefficients of networks whose mean latency is about 1: the scale of
the device is learned with the rest. It comes from the tables of other devices, from a measured
table of operators, from a table of a similar device, or from counting operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

NOISE, NOISE_SPREAD = 0.03, 1.0
"""Median and log standard deviation of a network's noise where no device tells."""


@dataclass(frozen=True)
class RulePrior:
    """The Gaussian under one rule of which edges run, and the rule's probability."""

    mean: np.ndarray
    covariance: np.ndarray
    probability: float


@dataclass(frozen=True)
class Prior:
    """What is known before measuring.

    Attributes:
        rules: a Gaussian for each rule that is possible.
        noise: median of the relative noise of one network.
        noise_spread: standard deviation of its logarithm.
        typical_ms: smallest and largest mean latency of known devices, None where none is known.
        name: for the table's record.
        measured_operators: whether every operator was measured on this device.
    """

    rules: Mapping[EdgeRule, RulePrior]
    noise: float
    noise_spread: float
    typical_ms: tuple[float, float] | None
    name: str
    measured_operators: bool = False


def from_devices(space: SearchSpace, tables: Sequence[LatencyTable]) -> Prior:
    """The mean and covariance of other devices' calibrated coefficients.

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
    spread = np.cov(vectors.T) if len(models) > 1 else np.zeros((vectors.shape[1],) * 2)
    average = DEVICE_MEAN / np.sqrt(len(models))
    covariance = spread + _grouped(
        space, DEVICE_FIXED + average, DEVICE_OPERATOR + average, DEVICE_EDGE
    )
    rules: dict[EdgeRule, RulePrior] = {}
    for rule in EDGE_RULES:
        count = sum(model.edges == rule for model in models)
        probability = (count + 1) / (len(models) + len(EDGE_RULES))
        if 2 * count > len(models):
            of_rule = np.array([model.edges == rule for model in models])
            rules[rule] = RulePrior(vectors[of_rule].mean(axis=0), covariance, probability)
        else:
            wider = covariance + _grouped(space, OTHER_FIXED, OTHER_OPERATOR, 0.0)
            rules[rule] = RulePrior(vectors.mean(axis=0), wider, probability)
    noises = np.log([model.coefficients.noise for model in models])
    return Prior(
        {rule: _possible(space, rule, prior) for rule, prior in rules.items()},
        noise=float(np.exp(noises.mean())),
        noise_spread=float(noises.std()) + 0.3,
        typical_ms=(min(scales_ms), max(scales_ms)),
        name=f"{len(models)} devices",
    )


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
        {model.edges: RulePrior(mean, covariance, 1.0)},
        noise=NOISE,
        noise_spread=NOISE_SPREAD,
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
        {
            rule: _possible(space, rule, RulePrior(mean, covariance, 1 / len(EDGE_RULES)))
            for rule in EDGE_RULES
        },
        noise=NOISE,
        noise_spread=NOISE_SPREAD,
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


def _possible(space: SearchSpace, rule: EdgeRule, prior: RulePrior) -> RulePrior:
    """Without cost for options that never run under the rule."""
    keep = _reference_rows(space, rule).any(axis=0)
    covariance = prior.covariance * np.outer(keep, keep)
    return RulePrior(prior.mean * keep, covariance, prior.probability)
