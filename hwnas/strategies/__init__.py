"""All search strategies, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hwnas.errors import InputError, did_you_mean
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome, SearchStrategy, Settings
from hwnas.strategies.bayesian import BayesianStrategy
from hwnas.strategies.differentiable import (
    DartsMinusStrategy,
    DartsStrategy,
    FairDartsStrategy,
    PcDartsStrategy,
)
from hwnas.strategies.evolution import EvolutionStrategy, SposStrategy
from hwnas.strategies.gan import GanStrategy
from hwnas.strategies.hyperband import HyperbandStrategy, SuccessiveHalvingStrategy
from hwnas.strategies.largest import LargestStrategy
from hwnas.strategies.optuna_samplers import Nsga2Strategy, TpeStrategy
from hwnas.strategies.perturbation import PerturbationStrategy
from hwnas.strategies.policies import EnasStrategy, ReinforceStrategy
from hwnas.strategies.random_search import RandomStrategy
from hwnas.strategies.stochastic import DrnasStrategy, GdasStrategy, SnasStrategy
from hwnas.strategies.vae import VaeStrategy

STRATEGIES: dict[str, type[SearchStrategy]] = {
    strategy.name: strategy
    for strategy in (
        DartsStrategy,
        DartsMinusStrategy,
        FairDartsStrategy,
        PcDartsStrategy,
        PerturbationStrategy,
        SnasStrategy,
        GdasStrategy,
        DrnasStrategy,
        RandomStrategy,
        LargestStrategy,
        EvolutionStrategy,
        SposStrategy,
        Nsga2Strategy,
        SuccessiveHalvingStrategy,
        HyperbandStrategy,
        ReinforceStrategy,
        EnasStrategy,
        TpeStrategy,
        BayesianStrategy,
        VaeStrategy,
        GanStrategy,
    )
}


def strategy_settings(name: str, settings: Mapping[str, Any], where: str = "strategy") -> Settings:
    """Validate the settings of a strategy.

    Args:
        name: of the strategy.
        settings: values that differ from the strategy's defaults.
        where: what error messages give as the location of the settings.

    Raises:
        InputError: for an unknown strategy or setting, or a value out of range.
    """
    if name not in STRATEGIES:
        raise InputError(
            "unknown strategy",
            where=where,
            expected=f"one of {', '.join(STRATEGIES)}",
            actual=repr(name),
            mend=did_you_mean(name, STRATEGIES) or "`hwnas strategies` lists them",
        )
    try:
        return STRATEGIES[name].settings_model(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = list(STRATEGIES[name].settings_model.model_fields)
        cause = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise InputError(
            cause,
            where=f"{where}.{key}",
            expected=f"settings of {name}: {', '.join(known) or 'none'}",
            actual=repr(first["input"]),
            mend=did_you_mean(key, known),
        ) from None


def build_strategy(
    name: str, space: SearchSpace, seed: int, settings: Mapping[str, Any], decoder: Decoder
) -> SearchStrategy:
    """Build a strategy.

    Args:
        name: a key of `STRATEGIES`.
        space: the search space.
        seed: of all random decisions of the strategy.
        settings: values that differ from the strategy's defaults.
        decoder: decides which architectures keep the budgets.

    Raises:
        InputError: for an unknown strategy or setting, or a value out of range.
    """
    checked = strategy_settings(name, settings)
    return STRATEGIES[name](space, seed, checked, decoder)


__all__ = [
    "STRATEGIES",
    "Outcome",
    "SearchStrategy",
    "build_strategy",
    "strategy_settings",
]
