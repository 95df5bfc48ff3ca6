"""Bayesian fit of a device's latency coefficients to a few measured networks.

The model is `latency = s (features @ coefficients + noise)`, where s is the scale of the device.
For each component of the prior and each of several noise levels, the coefficients are Gaussian
given s. The prior of log s is flat, the most probable s has a closed form, and the evidence of
component and noise level follows from Laplace's approximation. The most probable edge rule is
selected, and the coefficients are averaged over its components and noise levels, weighted by their
evidence (Bayesian model averaging).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.budget.coefficients import Coefficients, condition, kalman_gain, observation_covariance
from hwnas.calibration.prior import Component, Prior
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Calibration, EdgeRule
from hwnas.spaces.base import SearchSpace

NOISE_LEVELS = 12
"""Number of noise levels per component."""
NOISE_RANGE = 2.5
"""The levels span this many standard deviations of the log noise to either side of its median."""
NEGLIGIBLE = 1e-4
"""Levels with a smaller probability are omitted from the average."""


@dataclass(frozen=True)
class Fitted:
    """Result of a fit.

    Attributes:
        edges: the most probable edge rule.
        coefficients: coefficients under that rule, in ms.
        probabilities: posterior probability of each edge rule.
    """

    edges: EdgeRule
    coefficients: Coefficients
    probabilities: dict[EdgeRule, float]


@dataclass(frozen=True)
class _Observed:
    """Measured networks under one edge rule, reduced to at most as many rows as coefficients.

    Attributes:
        rows: (r, coefficients) features.
        latency_ms: (r,) latencies.
        rest: squared norm of the latencies' component outside the column space of the features,
            in ms^2, which no coefficients can explain.
        networks: number of measured networks.
    """

    rows: np.ndarray
    latency_ms: np.ndarray
    rest: float
    networks: int

    @classmethod
    def of(cls, rows: np.ndarray, latency_ms: np.ndarray) -> _Observed:
        """Reduce the rows by a QR decomposition, which keeps white noise white."""
        if len(rows) <= rows.shape[1]:
            return cls(rows, latency_ms, 0.0, len(rows))
        rotation, triangle = np.linalg.qr(rows)
        inside = rotation.T @ latency_ms
        rest = float(latency_ms @ latency_ms - inside @ inside)
        return cls(triangle, inside, max(rest, 0.0), len(rows))


@dataclass(frozen=True)
class _Level:
    """The fit of one component of the prior at one noise level.

    Attributes:
        component: the component.
        noise: relative noise of a network.
        scale: most probable scale of the device in ms.
        log_scale_variance: posterior variance of the logarithm of the scale.
        log_evidence: logarithm of the evidence, up to a constant.
    """

    component: Component
    noise: float
    scale: float
    log_scale_variance: float
    log_evidence: float


def fit(prior: Prior, rows: Mapping[EdgeRule, np.ndarray], latency_ms: np.ndarray) -> Fitted:
    """Fit the coefficients of one device.

    Args:
        prior: prior knowledge about the device.
        rows: features (networks, coefficients) of the measured networks under each edge rule.
        latency_ms: (networks,) measured latencies.

    Raises:
        InputError: there is no latency, or the latencies are not finite or all zero.
    """
    if len(latency_ms) == 0 or not (np.isfinite(latency_ms).all() and latency_ms.mean() > 0):
        raise InputError(
            "no latencies to fit", expected="finite latencies, at least one of them positive"
        )
    observed = {edges: _Observed.of(rows[edges], latency_ms) for edges in prior.edges}
    levels = [
        _level(component, observed[component.edges], deviations)
        for component in prior.components
        for deviations in np.linspace(-NOISE_RANGE, NOISE_RANGE, NOISE_LEVELS)
    ]
    evidence = np.array([level.log_evidence for level in levels])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    of_rule = np.array([level.component.edges for level in levels])
    probabilities = {edges: float(weights[of_rule == edges].sum()) for edges in prior.edges}
    edges = max(probabilities, key=lambda rule: probabilities[rule])
    shares = weights * (of_rule == edges) / probabilities[edges]
    kept = [
        (level, share) for level, share in zip(levels, shares, strict=True) if share > NEGLIGIBLE
    ]
    return Fitted(edges, _average(observed[edges], kept), probabilities)


def _level(component: Component, observed: _Observed, deviations: float) -> _Level:
    """Find the most probable scale and the evidence of a component at one noise level.

    With u = 1/s, latencies y of n networks, m = rows @ mean and K the covariance of y / s, the log
    evidence given u is

        n log u - (u^2 y'y - 2 u y'm + m'm) / 2 - log|K| / 2

    where a'b stands for a^T K^-1 b.

    Args:
        component: component of the prior.
        observed: the measured networks.
        deviations: noise level, in standard deviations of the log noise from its median.
    """
    noise = component.noise * float(np.exp(component.noise_spread * deviations))
    rows = observed.rows
    inner = observation_covariance(component.covariance, rows, np.full(len(rows), noise))
    root = np.linalg.cholesky(inner)
    y = np.linalg.solve(root, observed.latency_ms)
    m = np.linalg.solve(root, rows @ component.mean)
    n, ym = observed.networks, float(y @ m)
    yy = float(y @ y) + observed.rest / noise**2
    u = (ym + np.sqrt(ym**2 + 4 * n * yy)) / (2 * yy)
    log_determinant = 2 * np.log(np.diag(root)).sum() + 2 * (n - len(rows)) * np.log(noise)
    variance = 1 / (u**2 * yy + n)
    log_evidence = (
        n * np.log(u)
        - 0.5 * (u**2 * yy - 2 * u * ym + float(m @ m))
        - 0.5 * float(log_determinant)
        + 0.5 * np.log(variance)
        - 0.5 * deviations**2
        + np.log(component.probability)
    )
    return _Level(component, noise, float(1 / u), float(variance), float(log_evidence))


def _average(observed: _Observed, levels: Sequence[tuple[_Level, float]]) -> Coefficients:
    """Average the posterior coefficients over levels.

    Args:
        observed: the measured networks.
        levels: levels and their weights.

    Returns:
        Mean and covariance of the mixture of the levels' posteriors, in ms.
    """
    means, covariances, noises = [], [], []
    for level, _ in levels:
        prior, rows = level.component, observed.rows
        latency = observed.latency_ms / level.scale
        deviation = np.full(len(rows), level.noise)
        mean, covariance = condition(prior.mean, prior.covariance, rows, latency, deviation)
        # Uncertainty of the scale: derivative of scale * mean with respect to log scale.
        slope = prior.mean - kalman_gain(prior.covariance, rows, deviation) @ (rows @ prior.mean)
        covariance += np.outer(slope, slope) * level.log_scale_variance
        means.append(mean * level.scale)
        covariances.append(covariance * level.scale**2)
        noises.append(level.noise)
    weight = np.array([share for _, share in levels])
    weight /= weight.sum()
    mean = weight @ np.array(means)
    centred = np.array(means) - mean
    covariance = np.tensordot(weight, np.array(covariances), 1) + (centred.T * weight) @ centred
    return Coefficients(mean, covariance, float(np.sqrt(weight @ np.square(noises))))


def to_calibration(space: SearchSpace, fitted: Fitted, *, networks: int, prior: str) -> Calibration:
    """Convert a fit to the form that a latency table stores.

    Args:
        space: the search space.
        fitted: the fit.
        networks: number of measured networks.
        prior: name of the prior.
    """
    known = fitted.coefficients
    costs_ms, columns = {}, [0]
    for choice, parts in zip(space.choices, space.parts, strict=True):
        named = {part: space.coefficient(choice.name, part) for part in parts}
        costs_ms[choice.name] = {part: float(known.mean[c]) for part, c in named.items()}
        columns += named.values()
    first = space.first_shared
    shared_ms = {
        work.name: float(known.mean[first + i]) for i, work in enumerate(space.shared_work())
    }
    columns += range(first, first + len(shared_ms))
    return Calibration(
        space=space.name,
        space_options=space.options.model_dump(),
        edges=fitted.edges,
        fixed_ms=float(known.mean[0]),
        costs_ms=costs_ms,
        shared_ms=shared_ms,
        noise=known.noise,
        factors=[[float(f"{v:.6g}") for v in row] for row in known.factors()[:, columns]],
        networks=networks,
        prior=prior,
    )
