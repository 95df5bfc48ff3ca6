"""Settings of a strategy, searched where an evaluation costs nothing: on NAS-Bench-201.

An Optuna study in a storage that several processes may share, so that it can be interrupted,
resumed and spread over machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import annotated_types

from hwnas.errors import InputError
from hwnas.evaluators.storage import open_study
from hwnas.runs import interruption
from hwnas.strategies import STRATEGIES, strategy_settings
from hwnas.studies.nasbench201 import Benchmark, bench_strategy

if TYPE_CHECKING:
    from optuna import Study, Trial
    from pydantic.fields import FieldInfo

FACTOR = 10.0
"""Numbers are searched from their default divided by this to their default times this."""


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
    """Search a strategy's settings until the study has so many finished trials.

    Args:
        strategy: of `STRATEGIES`; one that needs no gradient and has settings.
        benchmark: what it is judged on.
        storage: a database's URL, or a file for a journal; a study in it is gone on with.
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
    import optuna

    strategy_settings(strategy, {})
    if not STRATEGIES[strategy].settings_model.model_fields:
        raise InputError("has no settings to tune", where=f"--strategy {strategy}")

    def regret(settings: dict[str, Any]) -> float:
        found = bench_strategy(
            benchmark,
            strategy,
            evaluations=evaluations,
            seeds=range(seeds),
            settings=settings,
            progress=lambda done, total, text: interruption.stop_if_requested(),
        )
        return sum(record["regret"] for record in found["seeds"]) / seeds

    default_regret = regret({})
    name = f"{strategy} {benchmark.dataset} {evaluations} x {seeds}"
    study = open_study(storage, name, "minimize", "--storage")
    while (done := _finished(study)) < trials:
        best = min((t.value for t in study.trials if t.value is not None), default=default_regret)
        progress(done, trials, f"regret {best:.3f}, default {default_regret:.3f}")
        # Seeded by the number of trials: the same again when resumed, another in another process.
        sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
        study.sampler = sampler
        trial = study.ask()
        try:
            study.tell(trial, regret(suggest(trial, strategy)))
        except BaseException:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
    progress(trials, trials, f"regret {study.best_value:.3f}, default {default_regret:.3f}")
    return {
        "strategy": strategy,
        "dataset": benchmark.dataset,
        "settings": study.best_params,
        "regret": study.best_value,
        "default_regret": default_regret,
        "trials": _finished(study),
    }


def suggest(trial: Trial, strategy: str) -> dict[str, Any]:
    """A value for each setting of a strategy, around its default and within its bounds."""
    fields = STRATEGIES[strategy].settings_model.model_fields
    return {name: _suggest(trial, name, field) for name, field in fields.items()}


def _suggest(trial: Trial, name: str, field: FieldInfo) -> Any:
    if get_origin(field.annotation) is Literal:
        return trial.suggest_categorical(name, list(get_args(field.annotation)))
    low, high = _bounds(field)
    if field.annotation is int:
        return trial.suggest_int(name, max(int(low), 1), int(high), log=True)
    return trial.suggest_float(name, low, high, log=True)


def _bounds(field: FieldInfo) -> tuple[float, float]:
    """The default times and divided by `FACTOR`, within what the setting allows."""
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
