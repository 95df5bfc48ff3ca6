"""Settings of training that are searched beside the architecture.

Each evaluation of an architecture is also a trial of settings. The sampler of settings and the
strategy of architectures learn from the same scores; with Optuna's tree-structured Parzen
estimator, which models each parameter by itself, this is the search of both in one study. A prior
is mixed into the proposals as in PriorBand: Mallik et al., NeurIPS 2023 (arXiv 2306.12370).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwnas.config import RangeConfig, TrainConfig
from hwnas.config.recipe import WHOLE
from hwnas.data.formats import seeded_rng

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "random", "quasi-random"]
Recipe = dict[str, float]
"""A value for each searched setting of `[train]`."""
DEVIATIONS = {"low": 0.5, "medium": 0.25, "high": 0.125}
"""Standard deviation of a prior by its confidence, as a share of the range, as in NePS."""
STARTUP = 8
"""Trials before the sampler takes over; in these, priors stand for half of the proposals."""


@dataclass
class Recipes:
    """Proposes recipes and learns from the scores of what was trained with them.

    Attributes:
        ranges: what is searched, by the name of the setting.
        seed: determines all proposals.
        sampler: of Optuna.
        trials: recipe, score and fidelity of every evaluation so far.
    """

    ranges: Mapping[str, RangeConfig]
    seed: int
    sampler: Sampler = "tpe"
    trials: list[tuple[Recipe, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._study = self._new_study()

    def ask(self) -> Recipe:
        """Propose a recipe; it depends on the seed and on the trials so far alone.

        Where there are priors, the first proposal is their values. Later ones are drawn around them
        with a probability that is one half at first and then falls with the number of trials.
        """
        number = len(self.trials)
        rng = seeded_rng(self.seed, "recipe", number)
        has_priors = any(one.prior is not None for one in self.ranges.values())
        if has_priors and number == 0:
            return self._around_priors(rng, spread=0.0)
        if has_priors and rng.random() < 0.5 * min(1.0, STARTUP / max(number, 1)):
            return self._around_priors(rng, spread=1.0)
        self._study.sampler = self._sampler(int(rng.integers(2**31)))
        trial = self._study.ask(self._distributions())
        return {name: float(value) for name, value in trial.params.items()}

    def tell(self, recipe: Recipe, score: float, fidelity: float) -> None:
        """Learn the score, higher is better, of an evaluation with a recipe.

        A shorter evaluation than a full one counts as a trial that was stopped early, which the
        sampler ranks behind all complete ones.
        """
        self.trials.append((recipe, score, fidelity))
        self._add(recipe, score, fidelity)

    @property
    def best(self) -> Recipe:
        """The recipe of the best evaluation at the largest fidelity; the prior without any."""
        if not self.trials:
            return self._around_priors(seeded_rng(self.seed, "recipe"), spread=0.0)
        most = max(fidelity for _, _, fidelity in self.trials)
        full = [trial for trial in self.trials if trial[2] == most]
        return max(full, key=lambda trial: trial[1])[0]

    def state(self) -> list[list[Any]]:
        """The trials as JSON data."""
        return [[recipe, score, fidelity] for recipe, score, fidelity in self.trials]

    def load(self, state: list[list[Any]]) -> None:
        """Restore the trials that `state` returned.

        All proposals are made again, since the state of Optuna's samplers cannot be saved.
        """
        self._study = self._new_study()
        self.trials = []
        for recipe, score, fidelity in state:
            self.ask()
            self.tell(dict(recipe), float(score), float(fidelity))

    def _around_priors(self, rng: np.random.Generator, spread: float) -> Recipe:
        """Values around the priors; settings without one are drawn from their whole range.

        Args:
            rng: source of the random numbers.
            spread: factor of the deviations; 0 for the priors themselves, or the middle of a range.
        """
        return {name: _drawn(one, name, rng, spread) for name, one in self.ranges.items()}

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
        return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)

    def _new_study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(direction="maximize")


def _drawn(one: RangeConfig, name: str, rng: np.random.Generator, spread: float) -> float:
    """A value of a range, around its prior if it has one."""
    if one.options is not None:
        options = list(one.options)
        expected = options[0] if one.prior is None else one.prior
        # With this probability another option is taken; equal ones without a prior.
        strays = spread * (1.0 if one.prior is None else DEVIATIONS[one.confidence])
        return float(rng.choice(options)) if rng.random() < strays else float(expected)
    assert one.low is not None and one.high is not None
    if one.prior is not None and not spread:
        return one.prior
    low, high = (np.log(v) if one.log else v for v in (one.low, one.high))
    if one.prior is None:
        place = rng.uniform() if spread else 0.5
    else:
        prior = ((np.log(one.prior) if one.log else one.prior) - low) / (high - low)
        place = prior + spread * DEVIATIONS[one.confidence] * rng.standard_normal()
    value = low + min(max(place, 0.0), 1.0) * (high - low)
    drawn = min(max(float(np.exp(value) if one.log else value), one.low), one.high)
    return float(round(drawn)) if name in WHOLE else drawn


def with_recipe(config: TrainConfig, recipe: Mapping[str, float]) -> TrainConfig:
    """The settings of a training with those of a recipe in place of its own."""
    values = {name: int(v) if name in WHOLE else v for name, v in recipe.items()}
    return config.model_copy(update=values)
