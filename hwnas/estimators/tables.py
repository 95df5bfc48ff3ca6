"""Classification and regression of tables (N, F) of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from hwnas.estimators.base import Classifier, Estimator, value_errors
from hwnas.estimators.data_files import write_arrays


class Tabular(Estimator):
    """An estimator of tables."""

    def _samples(self, X: Any) -> np.ndarray:  # noqa: N803
        """The rows to predict, (N, F) float32."""
        check_is_fitted(self, "onnx_")
        rows: np.ndarray = validate_data(self, X, reset=False, dtype=np.float32)
        return rows


class TabularClassifier(Tabular, Classifier):
    """Classifies the rows of tables (N, F) of finite numbers.

    Texts and missing numbers have to be encoded and filled in before, as by scikit-learn's
    `OneHotEncoder` and `SimpleImputer` in a pipeline.
    """

    def _read(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        rows, _ = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        return rows, self._encoded(y)

    def _write(
        self, folder: Path, inputs: np.ndarray, targets: np.ndarray, is_test: np.ndarray
    ) -> dict[str, Any]:
        return write_arrays(folder, "table", inputs, targets, is_test, self._names)


class TabularRegressor(RegressorMixin, Tabular):
    """Predicts one value for each row of a table (N, F) of finite numbers.

    `test_score_` is the explained variance R2, or 0 if that is negative. Texts and missing numbers
    have to be encoded and filled in before, as for `TabularClassifier`.
    """

    def _read(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        rows, values = validate_data(
            self, X, y, dtype=np.float32, y_numeric=True, ensure_min_samples=2
        )
        return rows, column_or_1d(values, warn=True).astype(np.float32)

    def _write(
        self, folder: Path, inputs: np.ndarray, targets: np.ndarray, is_test: np.ndarray
    ) -> dict[str, Any]:
        return write_arrays(folder, "table", inputs, targets, is_test)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The value (N,) float32 of each row.

        Raises:
            ValueError: rows that do not fit the model.
            NotFittedError: before `fit`.
        """
        predictor = self._loaded()
        with value_errors():
            values: np.ndarray = np.asarray(predictor.predict(self._samples(X)))
        return values
