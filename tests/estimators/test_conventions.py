"""scikit-learn's own checks of its conventions, for estimators of tables.

The others take images, signals or texts, where the checks give tables.
"""

from __future__ import annotations

import warnings

import pytest
from helpers.estimators import ROWS
from sklearn.utils.estimator_checks import parametrize_with_checks

from hwnas.estimators import TabularClassifier, TabularRegressor

EXPECTED_FAILURES: dict[str, str] = {}
ESTIMATORS = [TabularClassifier(settings=ROWS), TabularRegressor(settings=ROWS)]


@pytest.mark.slow
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda _: EXPECTED_FAILURES)
def test_the_conventions_of_scikit_learn_hold(estimator, check) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the check of the model")
        check(estimator)
