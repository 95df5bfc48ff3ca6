"""Bayesian optimisation with a Gaussian process over the operators that an architecture runs.

The kernel is a product of squared exponentials of the operators that run and of the network's size,
to which the size prior adds a linear function of the size, whose weight the evaluations determine.
This follows NASBOT's idea of comparing networks by what they compute (Kandasamy et al., "Neural
Architecture Search with Bayesian Optimisation and Optimal Transport", NeurIPS 2018, arXiv
1802.07191). Candidates are mutants of the best architectures and random draws, as in BANANAS (White
et al., AAAI 2021, arXiv 1910.11858). The next architecture is the candidate with the largest
expected improvement over the best posterior mean.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from pydantic import Field
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.sampled import SampledSettings, SampledStrategy
from hwnas.strategies.size_prior import log_sizes

REFERENCE_NETWORKS = 200
"""Number of random architectures by which network sizes are standardised."""
# Medians, and standard deviations of the log, of the log-normal priors of the length scales, of the
# linear function of the size, and of the noise.
LENGTH, LENGTH_SPREAD = 2.0, 1.0
SLOPE, SLOPE_SPREAD = 1.0, 1.0
NOISE, NOISE_SPREAD = 0.3, 0.7
NOISE_OF_LARGE, NOISE_OF_LARGE_SPREAD = 0.1, 0.2
"""The same beside the linear function: networks of about one size differ little, and a model that
takes all of their differences for noise chooses by size alone."""


class BayesianSettings(SampledSettings):
    """Sizes of the candidate sets and of the model."""

    startup: int = Field(
        20,
        ge=2,
        description="number of evaluations of the largest or of random networks before the model "
        "proposes",
    )
    pool: int = Field(300, ge=1, description="number of random candidates for each proposal")
    parents: int = Field(
        5, ge=1, description="number of best architectures whose mutants are candidates"
    )
    mutants: int = Field(30, ge=0, description="number of mutants of each parent")
    refit: int = Field(10, ge=1, description="evaluations between two fits of the length scales")
    capacity: float = Field(
        0.1,
        ge=0,
        description="by how much the log error of a short training falls further in a long "
        "one, for each standard deviation of the log of the parameters",
    )
    memory: int = Field(
        500, ge=2, description="number of latest evaluations that the model is fitted to"
    )


class BayesianStrategy(SampledStrategy):
    """Proposes the feasible candidate with the largest expected improvement."""

    name = "bayesian"
    paper = (
        "Kandasamy et al., Neural Architecture Search with Bayesian Optimisation and Optimal "
        "Transport, NeurIPS 2018, arXiv 1802.07191"
    )
    settings_model = BayesianSettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: BayesianSettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings
        self.starts = settings.startup if self.size_prior else 0
        self.observed: deque[tuple[Architecture, float]] = deque(maxlen=settings.memory)
        self.model = GaussianProcess(groups=2, linear=1 if self.size_prior else None)
        self.seen = self.refitted = 0
        rng = np.random.default_rng(seed)
        sampled = [space.sample(rng) for _ in range(REFERENCE_NETWORKS)]
        sizes = log_sizes(space, sampled)
        self.size_mean, self.size_std = sizes.mean(axis=0), sizes.std(axis=0) + 1e-12

    def propose(self, rng: np.random.Generator) -> Architecture:
        if len(self.observed) < self.settings.startup:
            return self.draw_large(rng)
        candidates = self._candidates(rng)
        if not candidates:
            return self.draw_large(rng)
        self._fit()
        mean, std = self.model.predict(self._features(candidates))
        known, _ = self.model.predict(self._features([a for a, _ in self.observed]))
        gains = expected_improvement(mean, std, known.min())
        ordered = (candidates[i] for i in np.argsort(-gains, kind="stable"))
        return next((a for a in ordered if self.decoder.is_feasible(a)), candidates[0])

    def _candidates(self, rng: np.random.Generator) -> list[Architecture]:
        """Candidates for the next proposal, none of which was evaluated before."""
        known = {architecture for architecture, _ in self.observed}
        parents = sorted(self.observed, key=lambda pair: pair[1])[: self.settings.parents]
        drawn = [self.space.sample(rng) for _ in range(self.settings.pool)]
        for parent, _ in parents:
            drawn += [self.space.mutate(parent, rng) for _ in range(self.settings.mutants)]
        return list(dict.fromkeys(a for a in drawn if a not in known))

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        self.observed.append((architecture, outcome.objective))
        self.seen += 1

    def ranked(self) -> list[Architecture]:
        """The evaluated architectures by the model's mean, which smooths evaluation noise.

        With the size prior the lasting outcomes themselves rank them: the networks that compete
        are of about one size and differ by little more than the model's error.
        """
        distinct = list(dict.fromkeys(architecture for architecture, _ in self.observed))
        if len(self.observed) < self.settings.startup or (self.size_prior and self.records):
            return super().ranked()
        self._fit()
        mean, _ = self.model.predict(self._features(distinct))
        return [distinct[i] for i in np.argsort(mean, kind="stable")]

    def _fit(self) -> None:
        objectives = np.array([objective for _, objective in self.observed])
        features = self._features([architecture for architecture, _ in self.observed])
        # Logarithms or normal scores, so that a few bad outcomes do not dominate the scale.
        if objectives.min() > 0:
            targets = np.log(objectives)
            if self.records:
                targets = targets - self.settings.capacity * features[1][:, 0]
        else:
            targets = ndtri((rankdata(objectives) - 0.5) / len(objectives))
        due = self.seen - self.refitted >= self.settings.refit
        self.refitted = self.seen if due else self.refitted
        self.model.fit(features, targets, search_scales=due)

    def _features(self, architectures: list[Architecture]) -> list[np.ndarray]:
        """What runs, (n, choices * max_parts), and standardised log sizes, (n, 2)."""
        one_hots = self.space.one_hots(architectures)
        runs = self.space.run_probability(one_hots).flatten(start_dim=1).numpy()
        sizes = (log_sizes(self.space, architectures) - self.size_mean) / self.size_std
        return [runs, sizes]

    def size_weight(self) -> float | None:
        """The learned fall of the log error when both log sizes grow by a standard deviation.

        It is None without the size prior and before the model is fitted.
        """
        if not self.size_prior or len(self.observed) < self.settings.startup:
            return None
        self._fit()
        return -float(self.model.slopes().sum())

    def state_dict(self) -> dict[str, Any]:
        observed = self.space.to_rows(self.observed)
        scales = self.model.log_scales.tolist()
        counts = [self.seen, self.refitted]
        return super().state_dict() | {"observed": observed, "scales": scales, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.model.log_scales = np.array(state["scales"])
        self.seen, self.refitted = (int(count) for count in state["counts"])
        self.observed.clear()
        self.observed.extend(self.space.from_rows(state["observed"]))


def expected_improvement(mean: np.ndarray, std: np.ndarray, best: float) -> np.ndarray:
    """The expectation of max(best - y, 0) for Gaussian y.

    Args:
        mean: (n,).
        std: (n,), standard deviations.
        best: the value to improve on.
    """
    distance = (best - mean) / std
    density = np.exp(-0.5 * distance**2) / np.sqrt(2 * np.pi)
    gain: np.ndarray = std * (distance * ndtr(distance) + density)
    return gain


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
