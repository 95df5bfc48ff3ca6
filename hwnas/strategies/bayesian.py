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
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Experience, Outcome
from hwnas.strategies.gaussian_process import GaussianProcess
from hwnas.strategies.sampled import SampledSettings, SampledStrategy
from hwnas.strategies.size_prior import CAPACITY, log_sizes, size_moments

REFERENCE_NETWORKS = 200
"""Number of random architectures by which network sizes are standardised."""


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
        CAPACITY,
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
    taken = 5
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
        self.startup = settings.startup
        self.starts = self.startup if self.size_prior else 0
        self.observed: deque[tuple[Architecture, float]] = deque(maxlen=settings.memory)
        self.model = GaussianProcess(groups=2, linear=1 if self.size_prior else None)
        self.seen = self.refitted = 0
        self.experience: Experience | None = None
        self.size_mean, self.size_std = size_moments(space, REFERENCE_NETWORKS, seed)

    def begin_from(self, experience: Experience) -> None:
        """Begin with the best predictions, which are a feature of the model afterwards.

        The weight of the feature is learned from the evaluations, as that of the size; those of the
        first predictions are enough for the model to propose.
        """
        super().begin_from(experience)
        self.experience = experience
        self.startup, self.starts = min(self.startup, max(2, len(self.suggested))), 0

    def propose(self, rng: np.random.Generator) -> Architecture:
        if len(self.observed) < self.startup:
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
        if len(self.observed) < self.startup or (self.size_prior and self.records):
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
        """What runs, (n, choices * max_parts), and standardised log sizes, (n, 2).

        What earlier searches predict, if anything, is a third column beside the sizes.
        """
        one_hots = self.space.one_hots(architectures)
        runs = self.space.run_probability(one_hots).flatten(start_dim=1).numpy()
        sizes = (log_sizes(self.space, architectures) - self.size_mean) / self.size_std
        if self.experience is not None:
            sizes = np.column_stack([sizes, self.experience.predict(architectures)[0]])
        return [runs, sizes]

    def size_weight(self) -> float | None:
        """The learned fall of the log error when both log sizes grow by a standard deviation.

        It is None without the size prior and before the model is fitted.
        """
        if not self.size_prior or len(self.observed) < self.startup:
            return None
        self._fit()
        return -float(self.model.slopes()[:2].sum())

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
