"""Settings of training that are searched beside the architecture.

Each evaluation of an architecture is also a trial of settings, and the strategy of architectures
and what proposes settings learn from the same scores. Settings come from three sources, as in
PriorBand (Mallik et al., NeurIPS 2023, arXiv 2306.12370): a sampler of Optuna, the
user's priors, and the neighbourhood of the best trial. How often a prior is asked depends on how
likely it had made the best trials, so a wrong one is soon left.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwnas.config import RangeConfig, TrainConfig
from hwnas.config.recipe import WHOLE
from hwnas.data.formats import seeded_rng
from hwnas.evaluators.recipe_ranges import density, distance, drawn, middle

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "random", "quasi-random"]
Recipe = dict[str, float]
"""A value for each searched setting of `[train]`."""
DEVIATIONS = {"low": 0.5, "medium": 0.25, "high": 0.125}
"""Standard deviation of a prior by its confidence, as a share of the range, as in NePS."""
STARTUP, CANDIDATES = 8, 32
"""Trials before the tree-structured Parzen estimator, which models each setting by itself, has
enough to learn from; until then each proposal is the one of so many random ones that is farthest
from all before (Mitchell, "Spectrally Optimal Sampling for Distribution Ray Tracing", 1991)."""
GUIDED = 2 / 3
"""Share of the proposals that come from priors or from the neighbourhood of the best trial."""
NEAR = 0.08
"""Standard deviation of that neighbourhood, as a share of the range."""
BEST = 3
"""One in so many trials counts as good, and so many are needed before one does."""


@dataclass
class Recipes:
    """Proposes recipes and learns from the scores of what was trained with them.

    Attributes:
        ranges: what is searched, by the name of the setting.
        seed: determines all proposals.
        sampler: of Optuna.
        trials: recipe, score and fidelity of every evaluation so far.
        begun: recipe and fidelity of the longest training of each architecture, by its chosen
            options, until it is trained to the end.
    """

    ranges: Mapping[str, RangeConfig]
    seed: int
    sampler: Sampler = "tpe"
    trials: list[tuple[Recipe, float, float]] = field(default_factory=list)
    begun: dict[tuple[int, ...], tuple[Recipe, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._study = self._new_study()

    def ask(self) -> Recipe:
        """Propose a recipe; it depends on the seed and on the trials so far alone.

        Where there are priors, the first proposal is their values.
        """
        number = len(self.trials)
        rng = seeded_rng(self.seed, "recipe", number)
        if self._has_priors and not number:
            return self._priors
        best = self._best_trials()
        learns = self.sampler == "tpe" and bool(best)
        if (self._has_priors or learns) and rng.random() < GUIDED:
            is_prior = rng.random() < self._share_of_priors(best)
            return self._by_priors(rng) if is_prior else self._near(best[0], rng)
        if self.sampler == "tpe" and number < STARTUP:
            return self._far_from_all(rng)
        self._study.sampler = self._sampler(int(rng.integers(2**31)))
        trial = self._study.ask(self._distributions())
        return {name: float(value) for name, value in trial.params.items()}

    def longer(self, chosen: tuple[int, ...], fidelity: float) -> Recipe | None:
        """The recipe of a shorter training of an architecture, by its options; None without one."""
        recipe, before = self.begun.get(chosen, ({}, 1.0))
        return recipe if before < fidelity else None

    def tell(
        self, recipe: Recipe, score: float, fidelity: float, chosen: tuple[int, ...] = ()
    ) -> None:
        """Learn the score, higher is better, of an evaluation with a recipe.

        A shorter evaluation than a full one counts as a trial that was stopped early, which the
        sampler ranks behind all complete ones.

        Args:
            recipe: the settings.
            score: what was reached with them.
            fidelity: share of a complete training.
            chosen: the options of the architecture.
        """
        self.trials.append((recipe, score, fidelity))
        self._add(recipe, score, fidelity)
        if fidelity < 1:
            self.begun[chosen] = recipe, fidelity
        else:
            self.begun.pop(chosen, None)

    @property
    def best(self) -> Recipe:
        """The recipe of the best evaluation at the largest fidelity; the prior without any."""
        if not self.trials:
            return self._priors
        most = max(fidelity for _, _, fidelity in self.trials)
        full = [trial for trial in self.trials if trial[2] == most]
        return max(full, key=lambda trial: trial[1])[0]

    def state(self) -> dict[str, Any]:
        """All trials, and what has begun, as JSON data."""
        return {
            "trials": [list(trial) for trial in self.trials],
            "begun": [[list(chosen), *begun] for chosen, begun in self.begun.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self._study, self.trials = self._new_study(), []
        for recipe, score, fidelity in state["trials"]:
            if all(recipe != known for known, _, _ in self.trials):
                self.ask()  # so that Optuna has counted the points of its quasi-random sequence
            self.tell(dict(recipe), float(score), float(fidelity))
        self.begun = {
            tuple(chosen): (dict(recipe), float(fidelity))
            for chosen, recipe, fidelity in state["begun"]
        }

    @property
    def _has_priors(self) -> bool:
        return any(one.prior is not None for one in self.ranges.values())

    @property
    def _priors(self) -> Recipe:
        """The priors, and the middle of each range without one."""
        return {
            name: middle(one, name) if one.prior is None else one.prior
            for name, one in self.ranges.items()
        }

    def _by_priors(self, rng: np.random.Generator) -> Recipe:
        return {
            name: drawn(one, name, one.prior, DEVIATIONS[one.confidence], rng)
            for name, one in self.ranges.items()
        }

    def _far_from_all(self, rng: np.random.Generator) -> Recipe:
        """Of random recipes the one whose nearest trial is farthest, in shares of the ranges."""
        found = [
            {name: drawn(one, name, None, 0.0, rng) for name, one in self.ranges.items()}
            for _ in range(CANDIDATES)
        ]

        def nearest(recipe: Recipe) -> float:
            return min(
                (
                    math.hypot(*(distance(o, recipe[n], t[n]) for n, o in self.ranges.items()))
                    for t, _, _ in self.trials
                ),
                default=0.0,
            )

        return max(found, key=nearest)

    def _near(self, recipe: Recipe, rng: np.random.Generator) -> Recipe:
        return {
            name: drawn(one, name, recipe[name], NEAR, rng) for name, one in self.ranges.items()
        }

    def _best_trials(self) -> list[Recipe]:
        """The best recipes, best first, at the largest fidelity with enough trials."""
        for fidelity in sorted({trial[2] for trial in self.trials}, reverse=True):
            found = [trial for trial in self.trials if trial[2] == fidelity]
            if len(found) >= BEST:
                ordered = sorted(found, key=lambda trial: -trial[1])
                return [recipe for recipe, _, _ in ordered[: len(found) // BEST]]
        return []

    def _share_of_priors(self, best: list[Recipe]) -> float:
        """The probability that a guided proposal is drawn around the priors.

        It is the likelihood of the best trials, the better ones with larger weights, under the
        priors in relation to that under the neighbourhood of the very best, by the settings that
        have a prior.
        """
        if not best or not self._has_priors:
            return float(self._has_priors)
        stated = {name: one for name, one in self.ranges.items() if one.prior is not None}
        prior = near = 0.0
        for weight, recipe in zip(range(len(best), 0, -1), best, strict=True):
            prior += weight * math.prod(
                density(one, recipe[name], one.prior, DEVIATIONS[one.confidence])
                for name, one in stated.items()
            )
            near += weight * math.prod(
                density(one, recipe[name], best[0][name], NEAR) for name, one in stated.items()
            )
        return prior / (prior + near)

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        found: dict[str, BaseDistribution] = {}
        for name, one in self.ranges.items():
            if one.options is not None:
                found[name] = CategoricalDistribution(one.options)
            else:
                assert one.low is not None and one.high is not None
                found[name] = (
                    IntDistribution(round(one.low), round(one.high), log=one.log)
                    if name in WHOLE
                    else FloatDistribution(one.low, one.high, log=one.log)
                )
        return found

    def _add(self, recipe: Recipe, score: float, fidelity: float) -> None:
        from optuna.trial import TrialState, create_trial

        distributions = self._distributions()
        params = {
            name: int(value) if name in WHOLE and self.ranges[name].options is None else value
            for name, value in recipe.items()
        }
        is_full = fidelity >= 1
        self._study.add_trial(
            create_trial(
                params=params,
                distributions=distributions,
                value=score if is_full else None,
                state=TrialState.COMPLETE if is_full else TrialState.PRUNED,
                intermediate_values={round(1000 * fidelity): score},
            )
        )

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna import samplers
        from optuna.exceptions import ExperimentalWarning

        if self.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.sampler == "quasi-random":
            # One sequence, of which each trial takes the next point.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return samplers.QMCSampler(
                    seed=self.seed, scramble=True, warn_independent_sampling=False
                )
        return samplers.TPESampler(seed=seed, n_startup_trials=1)

    def _new_study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(direction="maximize")


def with_recipe(config: TrainConfig, recipe: Mapping[str, float]) -> TrainConfig:
    """The settings of a training with those of a recipe in place of its own."""
    values = {name: int(v) if name in WHOLE else v for name, v in recipe.items()}
    return config.model_copy(update=values)
