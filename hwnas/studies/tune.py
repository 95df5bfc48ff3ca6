"""Hyperparameter search of a strategy on NAS-Bench-201, where an evaluation is a look-up.

The trials are an Optuna study in a storage that several processes may share, so that the search
can be interrupted, resumed and spread over machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import annotated_types
import numpy as np

from hwnas.errors import InputError
from hwnas.evaluators.storage import open_study
from hwnas.runs import interruption
from hwnas.strategies import STRATEGIES, strategy_settings
from hwnas.studies.nasbench201 import Benchmark, bench_strategy

if TYPE_CHECKING:
    from optuna import Study, Trial
    from pydantic.fields import FieldInfo

FACTOR = 10.0
"""Numbers are searched between their default divided by this and their default times this."""


def tune(
    strategy: str,
    benchmark: Benchmark,
    storage: str,
    *,
    trials: int,
    evaluations: int,
    seeds: int,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> dict[str, Any]:
    """Search a strategy's settings until the study has the given number of finished trials.

    Args:
        strategy: of `STRATEGIES`; one that needs no gradient and has settings.
        benchmark: the dataset, and the budget if there is one.
        storage: a database URL, or a journal file; an existing study is continued.
        trials: finished trials, those of earlier calls and other processes included.
        evaluations: cells that may be looked up in one search.
        seeds: searches whose mean regret is a trial's value.
        progress: told the trials done, all trials, and the best regret.

    Returns:
        `strategy`, `settings` (the best), `regret`, `default_regret` and `trials`.

    Raises:
        InputError: for a strategy without settings, or one that needs a supernet.
        Interrupted: after a signal; finished trials are in the storage.
    """
    strategy_settings(strategy, {})
    if not STRATEGIES[strategy].settings_model.model_fields:
        raise InputError("this strategy has no settings to tune", where=f"--strategy {strategy}")

    def regret(settings: dict[str, Any]) -> float:
        found = bench_strategy(
            benchmark,
            strategy,
            evaluations=evaluations,
            seeds=range(seeds),
            settings=settings,
            progress=lambda done, total, text: interruption.stop_if_requested(),
        )
        return float(np.mean([record["regret"] for record in found["seeds"]]))

    default_regret = regret({})
    name = f"{strategy} {benchmark.dataset} {evaluations} x {seeds}"
    study = open_study(storage, name, "minimize", "--storage")
    while (done := _finished(study)) < trials:
        best = min((t.value for t in study.trials if t.value is not None), default=default_regret)
        progress(done, trials, f"regret {best:.3f}, default {default_regret:.3f}")
        _run_trial(study, lambda trial: regret(suggest(trial, strategy)))
    progress(trials, trials, f"regret {study.best_value:.3f}, default {default_regret:.3f}")
    return {
        "strategy": strategy,
        "dataset": benchmark.dataset,
        "settings": study.best_params,
        "regret": study.best_value,
        "default_regret": default_regret,
        "trials": _finished(study),
    }


def _run_trial(study: Study, objective: Callable[[Trial], float]) -> None:
    """Run one trial; it counts as failed when an exception leaves it, a signal's included."""
    import optuna

    # The number of trials is the seed: resuming repeats nothing, and processes that share the
    # storage draw different settings.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
    trial = study.ask()
    try:
        study.tell(trial, objective(trial))
    except BaseException:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise


def suggest(trial: Trial, strategy: str) -> dict[str, Any]:
    """A value for each setting of a strategy, around its default and within its bounds."""
    fields = STRATEGIES[strategy].settings_model.model_fields
    return {name: _suggest(trial, name, field) for name, field in fields.items()}


def _suggest(trial: Trial, name: str, field: FieldInfo) -> Any:
    if get_origin(field.annotation) is Literal:
        return trial.suggest_categorical(name, list(get_args(field.annotation)))
    if field.annotation is bool:
        return trial.suggest_categorical(name, [True, False])
    low, high = _bounds(field)
    if field.annotation is int:
        return trial.suggest_int(name, max(int(low), 1), int(high), log=True)
    return trial.suggest_float(name, low, high, log=True)


def _bounds(field: FieldInfo) -> tuple[float, float]:
    """The default divided and multiplied by `FACTOR`, within the setting's own bounds."""
    centre = float(field.default) or 1e-3
    low, high = centre / FACTOR, centre * FACTOR
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            low = max(low, float(bound.ge))  # type: ignore[arg-type]
        if isinstance(bound, annotated_types.Le):
            high = min(high, float(bound.le))  # type: ignore[arg-type]
        if isinstance(bound, annotated_types.Lt):
            high = min(high, float(bound.lt) - 1e-3)  # type: ignore[arg-type]
    return low, high


def _finished(study: Study) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
