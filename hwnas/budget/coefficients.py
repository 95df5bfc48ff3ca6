"""What is known of a device's latency: coefficients of a sum, as a Gaussian.

A network's latency is `fixed + sum over what runs of its cost - sum over shared work of what is
saved`, times `1 + noise * N(0, 1)`. The coefficients, `fixed` first, then one for each part of
each choice, then one for each shared work, have a mean and a covariance; measured networks
condition them (linear-Gaussian regression: Rasmussen & Williams, "Gaussian Processes for Machine
Learning", 2006, section 2.1), with costs that are never negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear
from torch import Tensor

from hwnas.architecture import Architecture
from hwnas.latency_tables.calibration import EdgeRule
from hwnas.spaces.base import SearchSpace

JITTER = 1e-9
"""Added to the diagonal of what is inverted, relative to its mean."""


def features(space: SearchSpace, weights: Tensor, edges: EdgeRule) -> np.ndarray:
    """What runs in each network: (networks, coefficients).

    The first column is 1, then come probabilities of running, then, negative, how often each
    shared work is saved.

    Args:
        space: the search space.
        weights: (networks, choices, max_options), usually of `space.one_hots`.
        edges: which edges of a cell the runtime runs.
    """
    runs = space.run_probability(weights, edges).flatten(start_dim=1).double().numpy()
    saved = space.saved_work(weights, edges).double().numpy()
    return np.hstack([np.ones((len(runs), 1)), runs, -saved])


def architecture_features(
    space: SearchSpace, architectures: Sequence[Architecture], edges: EdgeRule
) -> np.ndarray:
    """`features` of architectures."""
    return features(space, space.one_hots(architectures), edges)


@dataclass(frozen=True)
class Coefficients:
    """A Gaussian over the coefficients.

    Attributes:
        mean: (coefficients,) ms.
        covariance: (coefficients, coefficients) ms^2; zero where a coefficient is known.
        noise: relative standard deviation of one network's latency about the sum.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise: float

    def latency_ms(self, rows: np.ndarray) -> np.ndarray:
        """Expected latency of networks with these features (networks, coefficients)."""
        return rows @ self.mean

    def std_ms(self, rows: np.ndarray) -> np.ndarray:
        """Standard deviation of one measured latency about the expected one."""
        variance = np.einsum("ni,ij,nj->n", rows, self.covariance, rows, optimize=True)
        noise_ms = self.noise * self.latency_ms(rows)
        return np.sqrt(np.maximum(variance, 0.0) + noise_ms**2)

    def conditioned(self, rows: np.ndarray, latency_ms: np.ndarray) -> Coefficients:
        """The coefficients after networks with these features were measured."""
        if len(rows) == 0:
            return self
        noise_ms = self.noise * np.maximum(latency_ms, self.latency_ms(rows))
        mean, covariance = condition(self.mean, self.covariance, rows, latency_ms, noise_ms)
        return Coefficients(mean, covariance, self.noise)

    def factors(self, share: float = 1e-4) -> np.ndarray:
        """(r, coefficients) with factors^T factors = covariance up to a share of its trace."""
        values, vectors = np.linalg.eigh(self.covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        left = values.sum() - np.cumsum(values)
        rank = int(np.argmax(left <= share * values.sum())) + 1 if values[0] > 0 else 0
        return np.sqrt(values[:rank, None]) * vectors[:, :rank].T


def condition(
    mean: np.ndarray,
    covariance: np.ndarray,
    rows: np.ndarray,
    observed: np.ndarray,
    deviation: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean (never negative) and covariance of a Gaussian after linear observations.

    Args:
        mean: (d,) prior.
        covariance: (d, d) prior.
        rows: (n, d) features of the observations.
        observed: (n,).
        deviation: (n,) standard deviations of the observations.
    """
    gain = gain_of(covariance, rows, deviation)
    posterior = mean + gain @ (observed - rows @ mean)
    left = covariance - gain @ rows @ covariance
    if (posterior < 0).any():
        posterior = _nonnegative(mean, covariance, rows, observed, deviation)
    return posterior, (left + left.T) / 2


def gain_of(covariance: np.ndarray, rows: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(d, n): how far each coefficient moves by each observation's surprise."""
    inner = observation_covariance(covariance, rows, deviation)
    return np.linalg.solve(inner, rows @ covariance).T


def observation_covariance(
    covariance: np.ndarray, rows: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """(n, n) covariance of what is observed, with a little added that keeps it invertible."""
    inner = rows @ covariance @ rows.T + np.diag(deviation**2)
    inner[np.diag_indices_from(inner)] += JITTER * np.trace(inner) / len(inner)
    return inner


def _nonnegative(
    mean: np.ndarray,
    covariance: np.ndarray,
    rows: np.ndarray,
    observed: np.ndarray,
    deviation: np.ndarray,
) -> np.ndarray:
    """The most probable coefficients of which none is negative."""
    free = np.diag(covariance) > 0
    prior = covariance[np.ix_(free, free)]
    scale = np.trace(prior) / len(prior)
    whitening = np.linalg.inv(np.linalg.cholesky(prior + JITTER * scale * np.eye(len(prior))))
    weights = 1 / np.maximum(deviation, np.sqrt(JITTER * scale))
    rest = observed - rows[:, ~free] @ mean[~free]
    matrix = np.vstack([rows[:, free] * weights[:, None], whitening])
    target = np.concatenate([rest * weights, whitening @ mean[free]])
    posterior = np.maximum(mean, 0.0)
    posterior[free] = lsq_linear(matrix, target, bounds=(0, np.inf)).x
    return posterior
