"""What all estimators share: parameters, the run behind `fit`, and the fitted model."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from hwnas.data.own_data import held_out
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.estimators.fitting import fit_within
from hwnas.inference.predictor import Predictor
from hwnas.pipeline.report import report
from hwnas.runs.run_folder import RunFolder

UNDECIDED = ("fail", "inconclusive")
"""States of gates that keep the verdict from being `pass`."""


class UnsuitableDataError(InputError, ValueError):
    """An `InputError` that is also what scikit-learn expects of data that cannot be used."""


@contextmanager
def value_errors() -> Iterator[None]:
    """Errors of data and parameters as `UnsuitableDataError`."""
    try:
        yield
    except InputError as error:
        raise UnsuitableDataError(str(error)) from None


class Estimator(BaseEstimator):
    """A network that keeps a latency budget on this machine, found and trained by `fit`.

    `fit` measures the operators of a search space that suits the data, takes the largest network
    that keeps the budget, trains it for the time that is left, exports it to ONNX and checks it.

    Args:
        budget_ms: latency budget of one sample in milliseconds, on one thread of ONNX Runtime on
            this machine; half-way between the fastest and the slowest network if None.
        minutes: limit of the time of `fit`. It is kept within 10 % where it is longer than what
            measuring and checking take at least, about a minute on two cores.
        test_fraction: fraction of the samples that are not trained on, for the check.
        settings: settings of hwnas that replace those that are chosen, as in
            ["train.epochs=30", "space.channels=16"].
        out: a new folder that keeps the run: model, report, settings; nothing is kept if None.
        random_state: seed, generator, or None for another one in every `fit`.
        verbose: show progress on stderr.

    Attributes:
        onnx_: the exported model, the content of an ONNX file (bytes).
        check_: what the check found; see `hwnas.run`.
        verdict_: `pass` if the model keeps the budget and all gates, else `fail` or `inconclusive`.
        latency_ms_: measured latency of the model in milliseconds.
        test_score_: the score on the samples that were not trained on, 0 to 1.
    """

    def __init__(
        self,
        budget_ms: float | None = None,
        *,
        minutes: float = 5.0,
        test_fraction: float = 0.2,
        settings: Sequence[str] = (),
        out: str | Path | None = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        self.budget_ms = budget_ms
        self.minutes = minutes
        self.test_fraction = test_fraction
        self.settings = settings
        self.out = out
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803  # scikit-learn's name
        """Find, train, export and check a network.

        Args:
            X: the samples; see the class.
            y: one target for each sample.

        Raises:
            ValueError: samples or targets that cannot be used, or wrong parameters.
            BudgetError: when no network keeps the budget.
        """
        with value_errors():
            inputs, targets = self._read(X, y)
            self._require_parameters()
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            is_test = held_out(targets, self.test_fraction, seed, "test_fraction")
            with self._folder() as folder:
                data = self._write(folder, inputs, targets, is_test)
                self.check_ = fit_within(
                    folder,
                    data,
                    minutes=self.minutes,
                    budget_ms=self.budget_ms,
                    settings=self.settings,
                    seed=seed,
                    verbose=self.verbose,
                )
                if self.out is not None:
                    report(folder)
                files = RunFolder(folder)
                metrics = files.read_json(files.metrics)
                self.onnx_ = files.model.read_bytes()
        self._predictor = Predictor(self.onnx_, threads=1)
        self.verdict_ = str(self.check_["verdict"])
        self.latency_ms_ = float(self.check_["measured"]["value_ms"])
        self.test_score_ = float(metrics[metrics["metric"]])
        self._warn()
        return self

    def export(self, path: str | Path) -> Path:
        """Write the fitted model to an ONNX file and return its path.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "onnx_")
        write_atomic(Path(path), self.onnx_)
        return Path(path)

    @abstractmethod
    def _read(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:  # noqa: N803
        """Check samples and targets; classes become their indices in `classes_`."""

    @abstractmethod
    def _write(
        self, folder: Path, inputs: Any, targets: np.ndarray, is_test: np.ndarray
    ) -> dict[str, Any]:
        """Write training and test samples to a folder; returns the table `[data]`."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session of ONNX Runtime, which cannot be pickled."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_predictor", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the model again."""
        super().__setstate__(state)
        if "onnx_" in state:
            self._predictor = Predictor(self.onnx_, threads=1)

    def _loaded(self) -> Predictor:
        """The fitted model.

        Raises:
            NotFittedError: before `fit`.
        """
        check_is_fitted(self, "onnx_")
        return self._predictor

    def _require_parameters(self) -> None:
        for name, value in (("minutes", self.minutes), ("budget_ms", self.budget_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError("not a positive number", where=name, expected="> 0", actual=value)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """The folder of the run: a temporary one, or `out`, which a failure removes again."""
        if self.out is None:
            with tempfile.TemporaryDirectory(prefix="hwnas-") as temporary:
                yield Path(temporary) / "run"
            return
        folder = Path(self.out)
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                "the folder holds something already", where=str(folder), mend="choose another"
            )
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _warn(self) -> None:
        """Say if the check did not end with `pass`, and why."""
        if self.verdict_ == "pass":
            return
        gates = [str(gate["name"]) for gate in self.check_["gates"] if gate["status"] in UNDECIDED]
        warnings.warn(
            f"the check of the model ended with {self.verdict_}: {', '.join(gates)}; check_ has "
            "the details",
            stacklevel=3,
        )


class Classifier(ClassifierMixin, Estimator):
    """An estimator of classes.

    Attributes:
        classes_: the different targets, in order.
    """

    def _encoded(self, y: Any) -> np.ndarray:
        """Targets as indices into `classes_`, which is set."""
        if y is None:
            raise InputError("requires y to be passed, but the target y is None", where="y")
        targets = column_or_1d(y, warn=True)
        check_classification_targets(targets)
        self.classes_, indices = np.unique(targets, return_inverse=True)
        names = self._names
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(
                "classification needs at least two classes that differ as texts",
                where="y",
                actual=f"{len(self.classes_)} class" + "es" * (len(self.classes_) != 1),
            )
        return indices.astype(np.int64)

    @property
    def _names(self) -> list[str]:
        """The classes as texts, as the model names them."""
        return [str(name) for name in self.classes_]

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable class (N,) of each sample.

        Raises:
            ValueError: samples that do not fit the model.
            NotFittedError: before `fit`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        classes: np.ndarray = self.classes_[best]
        return classes

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The probabilities (N, K) of the classes, in the order of `classes_`.

        Raises:
            ValueError: samples that do not fit the model.
            NotFittedError: before `fit`.
        """
        predictor = self._loaded()
        with value_errors():
            probabilities = predictor.predict_proba(self._samples(X))
        order = [predictor.classes.index(name) for name in self._names]
        ordered: np.ndarray = probabilities[:, order]
        return ordered

    @abstractmethod
    def _samples(self, X: Any) -> Any:  # noqa: N803
        """Samples to predict, as the fitted model takes them."""
