"""How much each choice matters: the share of the variance that it explains (fANOVA).

Hutter, Hoos & Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML
2014, as Optuna implements it with scikit-learn's random forests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwnas.architecture import Architecture
from hwnas.explaining.extra import require_extra
from hwnas.spaces.base import SearchSpace

TREES = 32
"""Trees of the random forest."""


def importances(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    values: Sequence[float],
    seed: int = 0,
) -> dict[str, float]:
    """Return the share of the variance of a value that each choice explains alone, by its name.

    Shares are of the variance over independent uniform options, as a random forest predicts it;
    what is left to 1 belongs to interactions of choices. In spaces whose choices restrict each
    other, options that no architecture combines are extrapolated.

    Args:
        space: the search space.
        architectures: evaluated architectures, spread over the space.
        values: the value of each.
        seed: of the random forest.

    Raises:
        RuntimeMissingError: when scikit-learn is not installed.
    """
    require_extra("sklearn", "scikit-learn")
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial

    # An option is the middle of a unit interval, so that the forest weighs all options equally;
    # with categorical parameters it would weigh mixtures of options that do not exist.
    distributions: dict[str, BaseDistribution] = {
        choice.name: FloatDistribution(-0.5, len(choice.options) - 0.5) for choice in space.choices
    }
    if np.ptp(values) == 0:
        return dict.fromkeys(distributions, 0.0)
    names = list(distributions)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        study.add_trials(
            [
                create_trial(
                    params=dict(zip(names, map(float, space.chosen(one)), strict=True)),
                    distributions=distributions,
                    value=float(value),
                )
                for one, value in zip(architectures, values, strict=True)
            ]
        )
        found = FanovaImportanceEvaluator(n_trees=TREES, seed=seed).evaluate(study)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in found.items()}
