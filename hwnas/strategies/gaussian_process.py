"""Gaussian process regression over groups of features, with a linear function of one of them.

Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.2, 2.7 and 5.4.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

# Medians, and standard deviations of the log, of the log-normal priors of the length scales, of the
# linear function of the size, and of the noise.
LENGTH, LENGTH_SPREAD = 2.0, 1.0
SLOPE, SLOPE_SPREAD = 1.0, 1.0
NOISE, NOISE_SPREAD = 0.3, 0.7
NOISE_OF_LARGE, NOISE_OF_LARGE_SPREAD = 0.1, 0.2
"""The same beside the linear function: networks of about one size differ little, and a model that
takes all of their differences for noise chooses by size alone."""


class GaussianProcess:
    """Gaussian process regression with one length scale for each group of features.

    Args:
        groups: number of groups.
        linear: the group of which a linear function is added to the process; None for no such
            function.

    Attributes:
        log_scales: logarithms of the length scale of each group, of the standard deviation of the
            linear function's slopes if there is one, and of the noise's standard deviation, the
            last two relative to the signal's.
    """

    def __init__(self, groups: int, linear: int | None = None) -> None:
        self.linear = linear
        medians, spreads = [LENGTH] * groups, [LENGTH_SPREAD] * groups
        if linear is None:
            medians, spreads = [*medians, NOISE], [*spreads, NOISE_SPREAD]
        else:
            medians = [*medians, SLOPE, NOISE_OF_LARGE]
            spreads = [*spreads, SLOPE_SPREAD, NOISE_OF_LARGE_SPREAD]
        self.log_scales = np.log(medians)
        self.prior = self.log_scales.copy(), np.array(spreads)

    def fit(self, features: list[np.ndarray], targets: np.ndarray, *, search_scales: bool) -> None:
        """Condition the process on observations.

        Args:
            features: (n, features) for each group.
            targets: (n,).
            search_scales: whether the scales are first set to their posterior mode.
        """
        self.features = features
        self.centre, self.spread = float(np.median(targets)), float(targets.std()) + 1e-12
        values = (targets - self.centre) / self.spread
        distances = [_squared_distances(f, f) for f in features]
        products = self._products(features)
        if search_scales:
            found = minimize(
                _negative_log_posterior,
                self.log_scales,
                args=(distances, products, values, self.prior),
                method="L-BFGS-B",
                options={"maxiter": 15},
            )
            self.log_scales = found.x
        self.root = _root(self.log_scales, distances, products)
        self.weights = cho_solve((self.root, True), values)
        self.signal = (values @ self.weights + 1) / (len(values) + 2)

    def predict(self, features: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The posterior mean and standard deviation, (n,) each, of the targets without noise."""
        distances = [
            _squared_distances(new, old) for new, old in zip(features, self.features, strict=True)
        ]
        kernel = _kernel(self.log_scales, distances, self._products(features))
        solved = solve_triangular(self.root, kernel.T, lower=True)
        before = np.ones(len(kernel))
        if self.linear is not None:
            before += np.exp(2 * self.log_scales[-2]) * (features[self.linear] ** 2).sum(axis=1)
        variance = np.maximum(before - (solved**2).sum(axis=0), 1e-9) * self.signal
        mean = self.centre + self.spread * (kernel @ self.weights)
        return mean, self.spread * np.sqrt(variance)

    def left_out_means(self) -> np.ndarray:
        """The posterior mean of each observation without itself, (n,).

        Rasmussen & Williams, equation 5.12.
        """
        inverse = cho_solve((self.root, True), np.eye(len(self.weights)))
        targets = self.root @ (self.root.T @ self.weights)
        means: np.ndarray = self.centre + self.spread * (targets - self.weights / np.diag(inverse))
        return means

    def slopes(self) -> np.ndarray:
        """The posterior mean of the linear function's slopes, (features of its group,)."""
        assert self.linear is not None
        of_prior = np.exp(2 * self.log_scales[-2])
        slopes: np.ndarray = self.spread * of_prior * self.features[self.linear].T @ self.weights
        return slopes

    def _products(self, features: list[np.ndarray]) -> np.ndarray | None:
        """Inner products with the observations of the linear function's features."""
        if self.linear is None:
            return None
        products: np.ndarray = features[self.linear] @ self.features[self.linear].T
        return products


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between all rows of two matrices, (n, features) and (m, features): (n, m)."""
    squared: np.ndarray = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return squared.clip(min=0.0)


def _kernel(
    log_scales: np.ndarray, distances: list[np.ndarray], products: np.ndarray | None
) -> np.ndarray:
    """The product of the groups' squared exponential kernels, for a signal variance of 1.

    The kernel of a linear function is added if there are inner products.
    """
    exponent = np.zeros_like(distances[0])
    for log_length, squared in zip(log_scales[: len(distances)], distances, strict=True):
        exponent += squared * np.exp(-2 * log_length)
    kernel = np.exp(-0.5 * exponent)
    if products is not None:
        kernel += np.exp(2 * log_scales[-2]) * products
    return kernel


def _root(
    log_scales: np.ndarray, distances: list[np.ndarray], products: np.ndarray | None
) -> np.ndarray:
    """The lower Cholesky factor of the kernel matrix with noise, for a signal variance of 1."""
    matrix = _kernel(log_scales, distances, products)
    matrix[np.diag_indices_from(matrix)] += np.exp(2 * log_scales[-1]) + 1e-6
    root: np.ndarray = np.tril(cho_factor(matrix, lower=True)[0])
    return root


def _negative_log_posterior(
    log_scales: np.ndarray,
    distances: list[np.ndarray],
    products: np.ndarray | None,
    values: np.ndarray,
    prior: tuple[np.ndarray, np.ndarray],
) -> float:
    """The negative log posterior of the scales, at the most probable signal variance."""
    root = _root(np.clip(log_scales, -6, 6), distances, products)
    whitened = solve_triangular(root, values, lower=True)
    n = len(values)
    likelihood = 0.5 * n * np.log((whitened @ whitened + 1) / (n + 2)) + np.log(np.diag(root)).sum()
    away = (log_scales - prior[0]) / prior[1]
    return float(likelihood + 0.5 * away @ away)
