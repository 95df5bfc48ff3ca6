"""A linear latency model with Gaussian uncertainty over its coefficients.

The latency of a network is

    (fixed + sum over parts that run of their cost - sum over shared work of what is saved)
    * (1 + noise * N(0, 1))

The coefficients are `fixed`, then one cost for each part of each choice, then one saving for each
piece of work that several operators can share. They have a Gaussian distribution, which is
conditioned on measured networks (Bayesian linear regression: Rasmussen & Williams, "Gaussian
Processes for Machine Learning", 2006, section 2.1), with costs constrained to be non-negative.
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
"""Added to the diagonal of matrices before they are inverted, relative to its mean."""


def features(space: SearchSpace, weights: Tensor, edges: EdgeRule) -> np.ndarray:
    """Return the features of networks or mixtures in the linear latency model.

    Args:
        space: the search space.
        weights: (networks, choices, max_options) probabilities of the options; one-hot for
            networks, as `space.one_hots` returns them.
        edges: which edges of a cell the runtime executes.

    Returns:
        (networks, coefficients): a column of ones, the probability that each part runs, and the
        negative of the expected number of times that each piece of shared work is saved.
    """
    runs = space.run_probability(weights, edges).flatten(start_dim=1).double().numpy()
    saved = space.saved_work(weights, edges).double().numpy()
    return np.hstack([np.ones((len(runs), 1)), runs, -saved])


def architecture_features(
    space: SearchSpace, architectures: Sequence[Architecture], edges: EdgeRule
) -> np.ndarray:
    """Return `features` of architectures, (networks, coefficients)."""
    return features(space, space.one_hots(architectures), edges)


@dataclass(frozen=True)
class Coefficients:
    """A Gaussian distribution of the coefficients.

    Attributes:
        mean: (coefficients,) in ms.
        covariance: (coefficients, coefficients) in ms^2; rows of known coefficients are zero.
        noise: relative standard deviation of a network's latency around the linear model.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise: float

    def latency_ms(self, rows: np.ndarray) -> np.ndarray:
        """Return the expected latencies (networks,) for features (networks, coefficients)."""
        latency_ms: np.ndarray = rows @ self.mean
        return latency_ms

    def std_ms(self, rows: np.ndarray) -> np.ndarray:
        """Return the standard deviations (networks,) of measured from expected latencies."""
        variance = np.einsum("ni,ij,nj->n", rows, self.covariance, rows, optimize=True)
        noise_ms = self.noise * self.latency_ms(rows)
        std_ms: np.ndarray = np.sqrt(np.maximum(variance, 0.0) + noise_ms**2)
        return std_ms

    def conditioned(self, rows: np.ndarray, latency_ms: np.ndarray) -> Coefficients:
        """Return the posterior coefficients after measuring networks.

        Args:
            rows: (networks, coefficients) features of the networks.
            latency_ms: (networks,) measured latencies.
        """
        if len(rows) == 0:
            return self
        noise_ms = self.noise * np.maximum(latency_ms, self.latency_ms(rows))
        mean, covariance = condition(self.mean, self.covariance, rows, latency_ms, noise_ms)
        return Coefficients(mean, covariance, self.noise)

    def factors(self, share: float = 1e-4) -> np.ndarray:
        """Return a low-rank factorisation of the covariance.

        Args:
            share: fraction of the covariance's trace that may be lost.

        Returns:
            F (rank, coefficients) of the smallest rank with F^T F = covariance up to that loss.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        lost = values.sum() - np.cumsum(values)
        rank = int(np.argmax(lost <= share * values.sum())) + 1 if values[0] > 0 else 0
        factors: np.ndarray = np.sqrt(values[:rank, None]) * vectors[:, :rank].T
        return factors


def condition(
    mean: np.ndarray,
    covariance: np.ndarray,
    rows: np.ndarray,
    observed: np.ndarray,
    deviation: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Condition a Gaussian on noisy linear observations, with a non-negative posterior mean.

    Args:
        mean: (d,) of the prior.
        covariance: (d, d) of the prior.
        rows: (n, d) features of the observations.
        observed: (n,) observed values.
        deviation: (n,) standard deviations of the observation noise.

    Returns:
        Mean (d,) and covariance (d, d) of the posterior. If the unconstrained mean has negative
        entries, the mean is replaced by the non-negative vector of highest posterior density.
    """
    gain = kalman_gain(covariance, rows, deviation)
    posterior = mean + gain @ (observed - rows @ mean)
    reduced = covariance - gain @ rows @ covariance
    if (posterior < 0).any():
        posterior = _nonnegative_mode(mean, covariance, rows, observed, deviation)
    return posterior, (reduced + reduced.T) / 2


def kalman_gain(covariance: np.ndarray, rows: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return the change (d, n) of the posterior mean per unit of each observation's residual."""
    inner = observation_covariance(covariance, rows, deviation)
    gain: np.ndarray = np.linalg.solve(inner, rows @ covariance).T
    return gain


def observation_covariance(
    covariance: np.ndarray, rows: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """Return the covariance (n, n) of the observations, with jitter that keeps it invertible."""
    inner: np.ndarray = rows @ covariance @ rows.T + np.diag(deviation**2)
    inner[np.diag_indices_from(inner)] += JITTER * np.trace(inner) / len(inner)
    return inner


def _nonnegative_mode(
    mean: np.ndarray,
    covariance: np.ndarray,
    rows: np.ndarray,
    observed: np.ndarray,
    deviation: np.ndarray,
) -> np.ndarray:
    """Return the non-negative vector of highest posterior density, by bounded least squares."""
    free = np.diag(covariance) > 0
    prior = covariance[np.ix_(free, free)]
    scale = np.trace(prior) / len(prior)
    whitening = np.linalg.inv(np.linalg.cholesky(prior + JITTER * scale * np.eye(len(prior))))
    weights = 1 / np.maximum(deviation, np.sqrt(JITTER * scale))
    rest = observed - rows[:, ~free] @ mean[~free]
    matrix = np.vstack([rows[:, free] * weights[:, None], whitening])
    target = np.concatenate([rest * weights, whitening @ mean[free]])
    posterior: np.ndarray = np.maximum(mean, 0.0)
    posterior[free] = lsq_linear(matrix, target, bounds=(0, np.inf)).x
    return posterior
