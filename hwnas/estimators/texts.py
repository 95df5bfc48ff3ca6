"""A classifier of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hwnas.data.formats import check_counts
from hwnas.data.text import words_of
from hwnas.errors import InputError
from hwnas.estimators.base import Classifier
from hwnas.estimators.data_files import write_texts

LEAST_WORDS, MOST_WORDS, PERCENTILE = 4, 256, 95
"""Bounds of the words that are read of each text, and the share of texts that is read whole."""


class TextClassifier(Classifier):
    """Classifies texts: a list, array or data frame column of strings.

    The words of the training texts are the vocabulary. Of long texts the beginning is read: as
    many words as 95 % of the texts have at most, and 256 at most; `settings` with
    `data.sequence_length=N` states another number.
    """

    def _read(self, X: Any, y: Any) -> tuple[list[str], np.ndarray]:  # noqa: N803
        texts, targets = self._samples(X), self._encoded(y)
        check_counts(np.empty(len(texts)), targets, "y")
        return texts, targets

    def _samples(self, X: Any) -> list[str]:  # noqa: N803
        texts = [] if isinstance(X, str) else list(X)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(
                "not a list of texts",
                where="X",
                expected="at least one string, and strings alone",
                actual=type(texts[0]).__name__ if texts else type(X).__name__,
            )
        return [str(text) for text in texts]

    def _write(
        self, folder: Path, inputs: list[str], targets: np.ndarray, is_test: np.ndarray
    ) -> dict[str, Any]:
        counts = [len(words_of(inputs[i])) for i in np.flatnonzero(~is_test)]
        length = int(np.clip(np.percentile(counts, PERCENTILE), LEAST_WORDS, MOST_WORDS))
        labels = [self._names[target] for target in targets]
        return write_texts(folder, inputs, labels, is_test, length)
