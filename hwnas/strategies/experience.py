"""What earlier searches of a space found, in the form in which a strategy can begin from it.

Each earlier search is a source: a Gaussian process over its scores. Sources are weighted by how
similar their task is and by how well they predict their own scores, as in Feurer et al., "Scalable
Meta-Learning for Bayesian Optimization using Ranking-Weighted Gaussian Process Ensembles", 2018
(arXiv 1802.02219). A source that cannot predict its own scores, since they are noise or belong to
other architectures, has no weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata, spearmanr

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder
from hwnas.strategies.gaussian_process import GaussianProcess
from hwnas.strategies.size_prior import CAPACITY, log_sizes, size_moments

LEAST_SCORES = 12
"""Scored architectures below which a search is no source."""
MOST_SCORES = 400
"""Latest scored architectures of a search that are used, since time grows with their cube."""
SIGNIFICANT = 3.0
"""Standard errors by which the correlation of scores and predictions has to exceed 0."""
POOL, PARENTS, MUTANTS, ROUNDS = 500, 20, 10, 4
"""Random architectures, and the steps of the local search, among which the best are found."""
REFERENCE_NETWORKS = 200
"""Number of random architectures by which sizes and predictions are standardised."""


@dataclass(frozen=True)
class EarlierSearch:
    """The scores of one search, or of several on the same data by the same evaluator.

    Attributes:
        architectures: different ones.
        scores: (architectures,); higher is better.
        similarity: of the task to the present one, 0 to 1.
        short: whether the scores are accuracies, 0 to 1, of short trainings, after which larger
            networks still gain more.
    """

    architectures: tuple[Architecture, ...]
    scores: np.ndarray
    similarity: float
    short: bool = False


class _Source:
    """A Gaussian process over the scores of an earlier search."""

    def __init__(self, search: EarlierSearch, space: SearchSpace) -> None:
        self.search, self.space = search, space
        self.size_mean, self.size_std = size_moments(space, REFERENCE_NETWORKS, seed=0)
        features = self._features(search.architectures)
        self.process = GaussianProcess(groups=2, linear=1)
        self.process.fit(features, self._targets(features[1]), search_scales=True)
        targets = self._targets(features[1])
        correlation = float(spearmanr(self.process.left_out_means(), targets).statistic)
        least = SIGNIFICANT / np.sqrt(len(targets) - 1)
        self.reliability = correlation if correlation > least else 0.0

    def _targets(self, sizes: np.ndarray) -> np.ndarray:
        """Standardised log errors with what longer trainings change, else normal scores."""
        scores = self.search.scores
        if self.search.short and scores.max() < 1:
            values = CAPACITY * sizes[:, 0] - np.log(1 - scores)
            standardised: np.ndarray = (values - values.mean()) / (values.std() + 1e-12)
            return standardised
        normal: np.ndarray = ndtri((rankdata(scores) - 0.5) / len(scores))
        return normal

    def _features(self, architectures: Sequence[Architecture]) -> list[np.ndarray]:
        one_hots = self.space.one_hots(architectures)
        runs = self.space.run_probability(one_hots).flatten(start_dim=1).numpy()
        sizes = (log_sizes(self.space, architectures) - self.size_mean) / self.size_std
        return [runs, sizes]

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations, (architectures,) each."""
        return self.process.predict(self._features(architectures))


class Experience:
    """What earlier searches of the same space tell about its architectures.

    Attributes:
        space: the search space.
        sources: one for each earlier search that predicts its own scores.
    """

    def __init__(self, space: SearchSpace, searches: Iterable[EarlierSearch]) -> None:
        self.space = space
        fitted = [_Source(s, space) for s in searches if len(s.architectures) >= LEAST_SCORES]
        self.sources = [s for s in fitted if s.reliability * s.search.similarity > 0]

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.sources)

    @property
    def trust(self) -> float:
        """The largest similarity of a source times its reliability, 0 to 1."""
        return max((s.reliability * s.search.similarity for s in self.sources), default=0.0)

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Predict scores, in standard deviations of the scores of an earlier search.

        Args:
            architectures: of the space.

        Returns:
            Means and standard deviations, (architectures,) each. The deviations contain the
            differences between the sources.
        """
        weights = np.array([s.reliability * s.search.similarity for s in self.sources])
        weights /= weights.sum()
        found = [source.predict(architectures) for source in self.sources]
        means, deviations = (np.array(values) for values in zip(*found, strict=True))
        mean = weights @ means
        variance = weights @ (deviations**2 + (means - mean) ** 2)
        return mean, np.sqrt(variance)

    def best(self, decoder: Decoder, k: int, rng: np.random.Generator) -> list[Architecture]:
        """Find architectures within the budgets that are predicted to be good, the best first.

        A local search from the architectures of the earlier searches and from random ones.

        Args:
            decoder: knows the budgets.
            k: how many architectures.
            rng: draws random architectures and mutants.
        """
        space = self.space
        known = [a for source in self.sources for a in source.search.architectures]
        drawn = [space.sample(rng) for _ in range(POOL)]
        drawn += decoder.best(self.option_scores, k)
        scored: dict[Architecture, float] = {}
        for _ in range(ROUNDS):
            new = list(dict.fromkeys(a for a in (*known, *drawn) if a not in scored))
            kept = [a for a in new if decoder.is_feasible(a)]
            if kept:
                scored |= dict(zip(kept, self.predict(kept)[0].tolist(), strict=True))
            parents = sorted(scored, key=lambda a: -scored[a])[:PARENTS]
            drawn = [space.mutate(parent, rng) for parent in parents for _ in range(MUTANTS)]
        return _different(space, sorted(scored, key=lambda a: -scored[a]), k)

    @cached_property
    def option_scores(self) -> np.ndarray:
        """The mean prediction of the architectures that take an option, (choices, max_options).

        In standard deviations over random architectures; 0 for options that none of them takes.
        """
        rng = np.random.default_rng(0)
        drawn = [self.space.sample(rng) for _ in range(REFERENCE_NETWORKS)]
        predicted, _ = self.predict(drawn)
        standardised = (predicted - predicted.mean()) / (predicted.std() + 1e-12)
        taken = self.space.one_hots(drawn).numpy()
        totals = np.tensordot(standardised, taken, axes=1)
        scores: np.ndarray = totals / np.maximum(taken.sum(axis=0), 1.0)
        return scores


def earlier_search(
    pairs: Sequence[tuple[Architecture, float]], similarity: float, *, short: bool = False
) -> EarlierSearch:
    """An earlier search from its scored architectures in order; the last score of each counts.

    Args:
        pairs: architectures with their scores.
        similarity: of the task to the present one.
        short: whether the scores are accuracies of short trainings.
    """
    kept = list(dict(pairs).items())[-MOST_SCORES:]
    architectures = tuple(architecture for architecture, _ in kept)
    scores = np.array([score for _, score in kept])
    return EarlierSearch(architectures, scores, similarity, short)


def _different(space: SearchSpace, ranked: Sequence[Architecture], k: int) -> list[Architecture]:
    """The first k architectures that do not compute the same as an earlier one."""
    found: dict[Hashable, Architecture] = {}
    for architecture in ranked:
        if len(found) == k:
            break
        found.setdefault(space.identity(architecture), architecture)
    return list(found.values())
