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
from functools import cache, cached_property
from itertools import islice

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
CAUTION, OPTIMISM = -2.0, 1.0
"""Standard deviations that are added to the predictions of the two halves of a start."""
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
        self.is_log_error = search.short and float(search.scores.max()) < 1
        self.centre, self.spread = 0.0, 1.0
        features = self._features(search.architectures)
        targets = self._targets(features[1])
        self.process = GaussianProcess(groups=2, linear=1)
        self.process.fit(features, targets, search_scales=True)
        correlation = float(spearmanr(self.process.left_out_means(), targets).statistic)
        least = SIGNIFICANT / np.sqrt(len(targets) - 1)
        self.reliability = correlation if correlation > least else 0.0

    def _targets(self, sizes: np.ndarray) -> np.ndarray:
        """Standardised log errors with what longer trainings change, else normal scores."""
        scores = self.search.scores
        if self.is_log_error:
            values = CAPACITY * sizes[:, 0] - np.log(1 - scores)
            self.centre, self.spread = float(values.mean()), float(values.std()) + 1e-12
            standardised: np.ndarray = (values - self.centre) / self.spread
            return standardised
        normal: np.ndarray = ndtri((rankdata(scores) - 0.5) / len(scores))
        return normal

    def _to_scores(self, targets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Scores of the search's evaluator from targets, which are inverted; (n,) each."""
        if self.is_log_error:
            errors: np.ndarray = np.exp(
                CAPACITY * sizes[:, 0] - (self.centre + self.spread * targets)
            )
            return 1 - errors
        ordered = np.sort(self.search.scores)
        normal = ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
        scores: np.ndarray = np.interp(targets, normal, ordered)
        return scores

    def expected_scores(
        self, architectures: Sequence[Architecture]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations in the units of the scores, (architectures,) each."""
        features = self._features(architectures)
        mean, deviation = self.process.predict(features)
        if not self.is_log_error:
            # The map to scores ends at those that are known, which must not end the uncertainty.
            scores = self._to_scores(mean, features[1])
            return scores, deviation * self.search.scores.std()
        low, middle, high = (
            self._to_scores(mean + shift * deviation, features[1]) for shift in (-1, 0, 1)
        )
        return middle, (high - low) / 2

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
        told = [s for s in searches if len(s.scores) >= LEAST_SCORES and np.ptp(s.scores) > 0]
        fitted = [_Source(search, space) for search in told]
        self.sources = [s for s in fitted if s.reliability * s.search.similarity > 0]

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.sources)

    @property
    def trust(self) -> float:
        """The largest similarity of a source times its reliability, 0 to 1."""
        return max((s.reliability * s.search.similarity for s in self.sources), default=0.0)

    def _combined(
        self, found: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the deviation of the sources' mixture, from those of each source."""
        weights = np.array([s.reliability * s.search.similarity for s in self.sources])
        weights /= weights.sum()
        means, deviations = (np.array(values) for values in zip(*found, strict=True))
        mean = weights @ means
        return mean, np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Predict scores, in standard deviations of the scores of an earlier search.

        Args:
            architectures: of the space.

        Returns:
            Means and standard deviations, (architectures,) each. The deviations contain the
            differences between the sources.
        """
        return self._combined([source.predict(architectures) for source in self.sources])

    def expected_scores(
        self, architectures: Sequence[Architecture]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict scores in the units of the earlier searches.

        Args:
            architectures: of the space.

        Returns:
            The scores that the evaluators of the sources would give on their data, and standard
            deviations, (architectures,) each.
        """
        return self._combined([source.expected_scores(architectures) for source in self.sources])

    def best(
        self,
        decoder: Decoder,
        k: int,
        rng: np.random.Generator,
        *,
        optimism: float = 0.0,
        candidates: Sequence[Architecture] = (),
    ) -> list[Architecture]:
        """Find architectures within the budgets that are predicted to be good, the best first.

        A local search from the architectures of the earlier searches, from random ones and from
        given candidates, or, if none of these keeps the budgets, from those that are decoded from
        `option_scores`.

        Args:
            decoder: knows the budgets.
            k: how many architectures.
            rng: draws random architectures and mutants.
            optimism: standard deviations that are added to the predicted means. Of several
                architectures with an uncertain prediction, one is more often very good.
            candidates: architectures from which the local search also begins.
        """
        space = self.space
        drawn = [a for source in self.sources for a in source.search.architectures]
        drawn += [*candidates]
        drawn += [space.sample(rng) for _ in range(POOL)]
        predicted: dict[Architecture, float] = {}
        is_feasible = cache(decoder.is_feasible)
        for _ in range(ROUNDS):
            new = list(dict.fromkeys(a for a in drawn if a not in predicted))
            if new:
                means, deviations = self.predict(new)
                values = means + optimism * deviations
                predicted |= dict(zip(new, values.tolist(), strict=True))
            ranked = sorted(predicted, key=lambda a: -predicted[a])
            parents = list(islice(filter(is_feasible, ranked), PARENTS))
            drawn = [space.mutate(parent, rng) for parent in parents for _ in range(MUTANTS)]
            if not parents:
                drawn = decoder.best(self.option_scores, k)
        return _different(space, filter(is_feasible, ranked), k)

    def start(self, decoder: Decoder, k: int, rng: np.random.Generator) -> list[Architecture]:
        """Find architectures to begin with, by cautious and by optimistic predictions in turn.

        The cautious ones are near to those that were scored, and so are good if the earlier data
        were like the present ones. The optimistic ones may be better where the earlier searches
        missed something, and worse where their scores are extrapolated.

        Args:
            decoder: knows the budgets.
            k: how many architectures.
            rng: draws random architectures and mutants.
        """
        halves = [self.best(decoder, k, rng, optimism=o) for o in (CAUTION, OPTIMISM)]
        return _different(self.space, (a for pair in zip(*halves, strict=False) for a in pair), k)

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


def _different(space: SearchSpace, ranked: Iterable[Architecture], k: int) -> list[Architecture]:
    """The first k architectures that do not compute the same as an earlier one."""
    found: dict[Hashable, Architecture] = {}
    for architecture in ranked:
        found.setdefault(space.identity(architecture), architecture)
        if len(found) == k:
            break
    return list(found.values())
