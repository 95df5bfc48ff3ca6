"""Classifiers of images and signals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hwnas.data.arrays import ChannelAxis, inputs_of
from hwnas.data.formats import check_counts
from hwnas.data.targets import Kind
from hwnas.errors import InputError
from hwnas.estimators.base import Classifier
from hwnas.estimators.data_files import write_arrays


class ArrayClassifier(Classifier):
    """A classifier of arrays with channels; parameters as for `Estimator`.

    Args:
        channels: which axis behind the samples holds the channels, "first" or "last"; found from
            the sizes if None.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        budget_ms: float | None = None,
        *,
        minutes: float = 5.0,
        channels: ChannelAxis | None = None,
        test_fraction: float = 0.2,
        settings: Sequence[str] = (),
        out: str | Path | None = None,
        random_state: Any = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            budget_ms,
            minutes=minutes,
            test_fraction=test_fraction,
            settings=settings,
            out=out,
            random_state=random_state,
            verbose=verbose,
        )
        self.channels = channels

    def _read(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        inputs, targets = self._samples(X), self._encoded(y)
        check_counts(inputs, targets, "y")
        return inputs, targets

    def _samples(self, X: Any) -> np.ndarray:  # noqa: N803
        try:
            array = np.asarray(X)
        except ValueError as error:
            raise InputError("samples differ in shape", where="X", actual=error) from None
        return inputs_of(array, self.kind, self.channels, "X")

    def _write(
        self, folder: Path, inputs: np.ndarray, targets: np.ndarray, is_test: np.ndarray
    ) -> dict[str, Any]:
        samples = inputs[:, :, 0] if self.kind == "signal" else inputs
        return write_arrays(folder, self.kind, samples, targets, is_test, self._names)


class ImageClassifier(ArrayClassifier):
    """Classifies images (N, C, H, W), (N, H, W, C) or (N, H, W).

    uint8 and uint16 stay what they are, everything else becomes float32.
    """

    kind = "image"


class SignalClassifier(ArrayClassifier):
    """Classifies signals (N, C, L) or (N, L, C): C sensors at L times."""

    kind = "signal"
