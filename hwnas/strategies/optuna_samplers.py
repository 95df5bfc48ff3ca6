"""Strategies that use samplers of Optuna: TPE and NSGA-II (Akiba et al., "Optuna", KDD 2019)."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from hwnas.architecture import Architecture, Mixture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, Settings
from hwnas.strategies.sampled import SampledSettings, SampledStrategy

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class OptunaStrategy(SampledStrategy):
    """Each choice is a categorical parameter of an Optuna study.

    If the sampler takes an option that cannot be completed to a valid architecture, the next open
    option is taken instead.

    Attributes:
        log: all calls of `ask` and `tell` so far. A resumed strategy repeats them, since the state
            of Optuna's samplers cannot be saved. A proposal is an empty entry, a suggestion its
            options, and `tell` the options and the outcome.
        searching: False while `best` collects architectures; proposals are then not trials.
    """

    directions: tuple[Literal["minimize"], ...] = ("minimize",)

    def __init__(self, space: SearchSpace, seed: int, settings: Settings, decoder: Decoder) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings
        self.searching = True
        self.study = self._new_study()
        self.pending: dict[Architecture, Trial] = {}
        self.log: list[list[float]] = []

    @property
    @abstractmethod
    def startup(self) -> int:
        """The number of random trials before the sampler takes over."""

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distribution of each choice, by name."""
        from optuna.distributions import CategoricalDistribution

        return {c.name: CategoricalDistribution(c.options) for c in self.space.choices}

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """A sampler for the next trial."""

    def values(self, outcome: Outcome) -> list[float]:
        """The values of a trial, one for each direction."""
        return [outcome.objective]

    def suggestion(self) -> Architecture | None:
        architecture = super().suggestion()
        if architecture is not None:
            self._begin_trial(architecture)
        return architecture

    def proposal(self) -> Architecture:
        self.log.append([])
        return super().proposal()

    def _begin_trial(self, architecture: Architecture) -> None:
        """Let the sampler know a suggestion as a trial of its own."""
        self.log.append([float(option) for option in self.space.chosen(architecture)])
        self.study.sampler = self.sampler(int(self._generator().integers(2**31)))
        self.study.enqueue_trial(dict(architecture.options))
        self.pending[architecture] = self.study.ask(self.distributions)

    def propose(self, rng: np.random.Generator) -> Architecture:
        if not self.searching:
            return self.draw_large(rng)
        self.study.sampler = self.sampler(int(rng.integers(2**31)))
        if len(self.study.get_trials(deepcopy=False)) < self.startup:
            # Uniform over architectures; independent parameters would not be.
            self.study.enqueue_trial(dict(self.draw_large(rng).options))
        trial = self.study.ask(self.distributions)
        decided: list[int] = []
        for choice in self.space.choices:
            wanted = choice.options.index(trial.params[choice.name])
            options = self.space.open_options(decided)
            decided.append(min(options, key=lambda o: (o - wanted) % len(choice.options)))
        architecture = self.space.architecture(decided)
        self.pending[architecture] = trial
        return architecture

    def tell(self, mixture: Mixture, outcome: Outcome, progress: float) -> None:
        chosen = mixture.weights.argmax(dim=1).tolist()
        self.log.append([*chosen, outcome.objective, outcome.ratio, float(outcome.lasting)])
        super().tell(mixture, outcome, progress)

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        from optuna.trial import TrialState, create_trial

        trial = self.pending.pop(architecture, None)
        if trial is not None:
            self.study.tell(trial, self.values(outcome))
        else:
            params = dict(architecture.options)
            self.study.add_trial(
                create_trial(
                    params=params,
                    distributions=self.distributions,
                    values=self.values(outcome),
                )
            )
        for missed in self.pending.values():
            self.study.tell(missed, state=TrialState.FAIL)
        self.pending.clear()

    def best(self, decoder: Decoder, k: int = 1) -> list[Architecture]:
        self.searching = False
        try:
            return super().best(decoder, k)
        finally:
            self.searching = True

    def state_dict(self) -> dict[str, Any]:
        return {
            "log": [list(entry) for entry in self.log],
            "started": self.started,
            "suggested": [self.space.chosen(architecture) for architecture in self.suggested],
            "recent": [self.space.chosen(architecture) for architecture in self.recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records.clear()
        self.pending.clear()
        self.log.clear()
        self.suggested.clear()
        self.draws = 0
        self.study = self._new_study()
        for entry in state["log"]:
            if not entry:
                self.proposal()
                continue
            if len(entry) == len(self.space.choices):
                self._begin_trial(self.space.architecture([int(option) for option in entry]))
                continue
            *chosen, objective, ratio, lasting = entry
            mixture = self.space.one_hot(self.space.architecture([int(i) for i in chosen]))
            self.tell(mixture, Outcome(objective, objective, ratio, lasting=bool(lasting)), 0.0)
        self._load_started(state)
        self.suggested = [self.space.architecture(list(row)) for row in state["suggested"]]
        self.recent.clear()
        self.recent.extend(self.space.architecture(list(row)) for row in state["recent"])

    def _new_study(self) -> Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(directions=list(self.directions))


class TpeSettings(SampledSettings):
    """Settings of Optuna's sampler."""

    startup: int = Field(10, ge=1, description="number of random trials at the start")
    candidates: int = Field(
        24,
        ge=1,
        description="number of draws of which the one with the largest expected improvement is "
        "proposed",
    )


class TpeStrategy(OptunaStrategy):
    """Tree-structured Parzen estimator."""

    name = "tpe"
    paper = "Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011"
    settings_model = TpeSettings
    settings: TpeSettings

    @property
    def startup(self) -> int:
        return self.settings.startup

    def sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(
            seed=seed,
            n_startup_trials=self.settings.startup,
            n_ei_candidates=self.settings.candidates,
        )


class Nsga2Settings(SampledSettings):
    """Settings of Optuna's sampler."""

    population: int = Field(20, ge=2, description="number of architectures in a generation")


class Nsga2Strategy(OptunaStrategy):
    """A genetic algorithm with two objectives: that of the search, and latency over budget."""

    name = "nsga2"
    paper = "Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002"
    settings_model = Nsga2Settings
    settings: Nsga2Settings
    directions = ("minimize", "minimize")

    @property
    def startup(self) -> int:
        return self.settings.population

    def values(self, outcome: Outcome) -> list[float]:
        return [outcome.objective, outcome.ratio]

    def sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(seed=seed, population_size=self.settings.population)
