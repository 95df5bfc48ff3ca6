"""Coefficients of a device from a few measured networks.

With scale s of the device, `latency = s (features @ coefficients + noise)`. For each component of
the prior and each of several noise levels the coefficients are Gaussian given s; s has a flat prior
in its logarithm, its most probable value has a closed form, and the evidence of component and noise
follows by Laplace's approximation. The most probable rule of which edges run is kept; its
coefficients are averaged over the rule's components and noise levels.
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
NOISE_RANGE = 2.5
"""Levels reach this many deviations of the prior's logarithm to either side."""
NEGLIGIBLE = 1e-4
"""Levels less probable than this are left out of the average."""


@dataclass(frozen=True)
class Fitted:
    """Coefficients of a device, the rule they hold under and how probable each rule is."""

    edges: EdgeRule
    coefficients: Coefficients
    probabilities: dict[EdgeRule, float]


@dataclass(frozen=True)
class _Observed:
    """Measured networks under one rule, rotated so that no more rows are left than columns.

    Attributes:
        rows: (r, coefficients).
        latency_ms: (r,).
        rest: squared length of the part of the latencies that no coefficients can explain, ms^2.
        networks: how many were measured.
    """

    rows: np.ndarray
    latency_ms: np.ndarray
    rest: float
    networks: int

    @classmethod
    def of(cls, rows: np.ndarray, latency_ms: np.ndarray) -> _Observed:
        """Rotate; white noise stays white."""
        if len(rows) <= rows.shape[1]:
            return cls(rows, latency_ms, 0.0, len(rows))
        rotation, triangle = np.linalg.qr(rows)
        inside = rotation.T @ latency_ms
        rest = float(latency_ms @ latency_ms - inside @ inside)
        return cls(triangle, inside, max(rest, 0.0), len(rows))


@dataclass(frozen=True)
class _Level:
    """The fit of one component at one noise level, in units of the scale."""

    component: Component
    noise: float
    scale: float
    log_scale_variance: float
    log_evidence: float


def fit(prior: Prior, rows: Mapping[EdgeRule, np.ndarray], latency_ms: np.ndarray) -> Fitted:
    """Fit the coefficients of one device.

    Args:
        prior: what was known before.
        rows: features (networks, coefficients) of the measured networks under each rule.
        latency_ms: (networks,) measured.

    Raises:
        InputError: when there is no measurement, or one is not a positive time.
    """
    if len(latency_ms) == 0 or not (np.isfinite(latency_ms).all() and latency_ms.mean() > 0):
        raise InputError("no latencies to fit", expected="at least one positive time")
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
    """Most probable scale and evidence at a noise so many log deviations from the median.

    With u = 1/s, m = rows @ mean and K the covariance of `latency / s`, the log evidence is
    `n log u - (u^2 y'y - 2 u y'm + m'm) / 2 - log|K| / 2`, where y'm stands for the product
    whitened by K.
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
    """Mean and covariance over levels with their shares, in ms."""
    means, covariances, noises = [], [], []
    for level, _ in levels:
        prior, rows = level.component, observed.rows
        latency = observed.latency_ms / level.scale
        deviation = np.full(len(rows), level.noise)
        mean, covariance = condition(prior.mean, prior.covariance, rows, latency, deviation)
        # With another scale the coefficients would be others: d(scale * mean) / d(log scale).
        moved = prior.mean - kalman_gain(prior.covariance, rows, deviation) @ (rows @ prior.mean)
        covariance += np.outer(moved, moved) * level.log_scale_variance
        means.append(mean * level.scale)
        covariances.append(covariance * level.scale**2)
        noises.append(level.noise)
    weight = np.array([share for _, share in levels])
    weight /= weight.sum()
    mean = weight @ np.array(means)
    away = np.array(means) - mean
    covariance = np.tensordot(weight, np.array(covariances), 1) + (away.T * weight) @ away
    return Coefficients(mean, covariance, float(np.sqrt(weight @ np.square(noises))))


def to_calibration(space: SearchSpace, fitted: Fitted, *, networks: int, prior: str) -> Calibration:
    """What a table stores of a fit."""
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
