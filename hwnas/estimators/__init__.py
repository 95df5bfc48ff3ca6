"""Estimators by scikit-learn's conventions: `fit`, `predict`, and a limit in minutes.

They need scikit-learn, which `pip install 'hwnas[estimators]'` installs.
"""

from __future__ import annotations

from hwnas.errors import RuntimeMissingError

try:
    import sklearn  # noqa: F401
except ImportError:
    raise RuntimeMissingError(
        "scikit-learn is not installed",
        where="hwnas.estimators",
        mend="pip install 'hwnas[estimators]'",
    ) from None

from hwnas.estimators.arrays import ImageClassifier, SignalClassifier
from hwnas.estimators.tables import TabularClassifier, TabularRegressor
from hwnas.estimators.texts import TextClassifier

__all__ = [
    "ImageClassifier",
    "SignalClassifier",
    "TabularClassifier",
    "TabularRegressor",
    "TextClassifier",
]
