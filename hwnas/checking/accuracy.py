"""The accuracy of a model on labelled samples, and which of its outputs gives the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Outputs, Predict, single_arrays
from hwnas.errors import InputError, printable

PROBABILITY_THRESHOLD = 0.5
"""Least probability of class 1, where a model gives one probability for each sample."""


def accuracy_of(predict: Predict, samples: Samples, batch: int, where: str) -> float:
    """Share of the labelled samples that are classified correctly.

    Args:
        predict: runs the model.
        samples: samples with classes as targets.
        batch: batch size to run at.
        where: the model file, for errors.

    Raises:
        InputError: when no output, or more than one, could give the classes.
    """
    assert samples.targets is not None
    correct = total = 0
    for feeds, labels in samples.batches(batch):
        outputs = predict(feeds)
        name = samples.score_output or score_output(outputs, len(labels), samples.targets, where)
        classes = _classes(outputs, name, len(labels), samples, where)
        if "U" in (classes.dtype.kind, labels.dtype.kind) or classes.dtype.kind == "O":
            classes, labels = classes.astype(str), labels.astype(str)
        correct += int(np.sum(classes == labels))
        total += len(labels)
    return correct / total


def score_output(outputs: Outputs, count: int, targets: np.ndarray, where: str) -> str:
    """The output that gives the class of each sample.

    Classes come before scores, since a model that returns both has chosen them itself. Of several
    outputs with scores, the one with as many columns as there are classes among the labels is
    taken.

    Args:
        outputs: of one inference.
        count: number of samples in it.
        targets: the labels of all samples.
        where: the model file, for errors.

    Raises:
        InputError: when no output, or more than one, could be meant.
    """
    arrays = dict(single_arrays(outputs))
    classes = [name for name, array in arrays.items() if _is_classes(array, count)]
    columns = {name: _columns(array, count) for name, array in arrays.items()}
    scores = [name for name, number in columns.items() if number > 1]
    single = [name for name, number in columns.items() if number == 1]
    if targets.dtype.kind in "iu":
        needed = int(targets.max()) + 1
        enough = [name for name in scores if columns[name] >= needed]
        exact = [name for name in enough if columns[name] == needed]
        scores = (exact or enough) if len(scores) > 1 else scores
    for found in (classes, scores, single):
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                "several outputs could give the classes",
                where=where,
                actual=", ".join(found),
                mend=f"name one with --score-output {found[0]}",
            )
    raise InputError(
        "no output gives a class for every sample",
        where=where,
        expected=f"scores ({count}, classes) or classes ({count},)",
        actual=[f"{name} {list(array.shape)}" for name, array in arrays.items()],
        mend="leave the labels out of the data",
    )


def _is_classes(array: np.ndarray, count: int) -> bool:
    return array.dtype.kind in "iuOU" and array.size == count


def _columns(array: np.ndarray, count: int) -> int:
    """Number of scores of each sample in a floating-point output; 0 for any other output."""
    is_scores = array.dtype.kind == "f" and array.ndim in (1, 2) and len(array) == count
    return array.size // count if is_scores else 0


def _classes(outputs: Outputs, name: str, count: int, samples: Samples, where: str) -> np.ndarray:
    """The class of each sample, (count,)."""
    arrays: Mapping[str, np.ndarray] = dict(single_arrays(outputs))
    if name not in arrays:
        raise InputError(
            "the model has no such output",
            where="--score-output",
            expected=", ".join(arrays),
            actual=name,
        )
    array = arrays[name]
    if _is_classes(array, count):
        return array.ravel()
    columns = _columns(array, count)
    if columns > 1:
        _require_indices(samples, columns, f"{where}: output {name!r}")
        return np.asarray(array.argmax(axis=1))
    if columns == 1:
        return _above_threshold(array.ravel(), samples, where)
    raise InputError(
        "the output gives no class for every sample",
        where=f"{where}: output {name!r}",
        expected=f"scores ({count}, classes) or classes ({count},)",
        actual=f"{array.dtype} {list(array.shape)}",
    )


def _require_indices(samples: Samples, columns: int, where: str) -> None:
    """Refuse labels that are no indices of the scores."""
    labels = samples.targets
    assert labels is not None
    if labels.dtype.kind in "iu":
        found = f"{labels.min()} to {labels.max()}"
        if labels.min() >= 0 and labels.max() < columns:
            return
    else:
        found = f"the text {printable(str(labels.flat[0]), 40)!r}"
    raise InputError(
        "the labels are no indices of its scores",
        where=where,
        expected=f"labels 0 to {columns - 1}",
        actual=found,
        mend="store the index of each sample's class as its label",
    )


def _above_threshold(scores: np.ndarray, samples: Samples, where: str) -> np.ndarray:
    """Classes 0 and 1 from one score for each sample."""
    assert samples.targets is not None
    if samples.targets.dtype.kind not in "iu" or not np.isin(samples.targets, (0, 1)).all():
        raise InputError(
            "one score for each sample cannot tell these classes apart",
            where=where,
            expected="labels 0 and 1",
            actual=f"{len(np.unique(samples.targets))} labels",
        )
    threshold = samples.threshold
    if threshold is None:
        if ((scores < 0) | (scores > 1)).any():
            raise InputError(
                "one score for each sample that is no probability",
                where=where,
                expected="0 to 1",
                actual=f"{scores.min():.4g} to {scores.max():.4g}",
                mend="state the least score of class 1, as in --score-threshold 0 for logits",
            )
        threshold = PROBABILITY_THRESHOLD
    return (scores >= threshold).astype(np.int64)
