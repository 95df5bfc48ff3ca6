"""Targets of arrays of samples: which task they ask for, and the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hwnas.data.formats import (
    DETECTION,
    IMAGE_CLASSIFICATION,
    REGRESSION,
    SEGMENTATION,
    SEQUENCE_LABELLING,
    VOID,
    check_labels,
)
from hwnas.errors import InputError, printable

Kind = Literal["image", "signal", "table", "tokens"]
"""What one sample is; `hwnas.data.arrays` has the axes of each kind."""
SEVERAL: Literal["several"] = "several"
"""Stands for the kind of samples that have several inputs."""
CLASSIFICATION: dict[str, str] = {
    "image": IMAGE_CLASSIFICATION,
    "signal": "signal-classification",
    "table": "table-classification",
    "tokens": "text-classification",
    SEVERAL: "multi-input-classification",
}
"""The task of samples of a kind that have one class each."""
SEQUENCES = ("signal", "tokens", SEVERAL)
"""Kinds of samples whose targets may be a class for each position."""
MOST_CLASSES = 100_000
LISTED = 10
"""Number of labels that a message names."""


def targets_of(
    kind: Kind | Literal["several"],
    targets: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str] | None,
    where: str,
) -> tuple[str, tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return the task, the classes (or the name of the value), and the targets of both splits.

    Args:
        kind: what one sample is.
        targets: of the training and of the test samples, see `hwnas.data.arrays.raw_data_of`.
        classes: names of the classes; None for the different training targets, in order.
        where: begins the place that errors name.

    Raises:
        InputError: targets of an unsupported type or shape, that are not finite, or that are not
            among the classes.
    """
    places = f"{where}y_train", f"{where}y_test"
    train, test = (_readable(y, place) for y, place in zip(targets, places, strict=True))
    form = train.dtype.kind, train.ndim
    if (test.dtype.kind, test.ndim) != form:
        raise InputError(
            "training and test targets differ in type or dimensions",
            where=places[1],
            expected=f"{train.dtype} with {train.ndim} dimensions",
            actual=f"{test.dtype} with {test.ndim} dimensions",
        )
    names = _class_names(classes, where)
    if form in (("i", 1), ("U", 1)):
        found, encoded = _encoded(train, test, names, where)
        return CLASSIFICATION[kind], found, encoded
    if form == ("f", 1):
        values = _floats(train[:, None], places[0]), _floats(test[:, None], places[1])
        return REGRESSION, names or ("value",), values
    if form == ("i", 3) and kind == "image":
        names, maps = _labels_of((train, test), places, names)
        return SEGMENTATION, names, maps
    if form == ("i", 2) and kind in SEQUENCES and (names or not _is_one_hot(train)):
        names, found_labels = _labels_of((train, test), places, names)
        return SEQUENCE_LABELLING, names, found_labels
    if form == ("f", 3) and train.shape[2] == test.shape[2] == 5 and kind == "image" and names:
        boxes = _floats(train, places[0]), _floats(test, places[1])
        return DETECTION, names, boxes
    raise InputError(
        f"unsupported targets of samples of kind {kind}",
        where=places[0],
        expected="(N,) integers or texts (classes), (N,) or (N, 1) floats (values)"
        + (
            ", (N, H, W) integers (a class for each pixel), or (N, B, 5) floats with the names of "
            "the classes (boxes)"
            if kind == "image"
            else ", or (N, L) integers (a class for each position)"
            if kind in SEQUENCES
            else ""
        ),
        actual=f"shape {train.shape} {train.dtype}",
        mend="take the largest of each row if these are one-hot vectors: y.argmax(axis=1)"
        if train.ndim == 2
        else "",
    )


def _labels_of(
    targets: tuple[np.ndarray, np.ndarray], places: tuple[str, str], names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return names of classes, and int64 targets with a class, or `VOID`, for each position."""
    names = names or tuple(map(str, range(int(targets[0].max()) + 1)))
    for labels, place in zip(targets, places, strict=True):
        check_labels(np.append(labels[labels != VOID], 0), len(names), place)
    return names, (targets[0].astype(np.int64), targets[1].astype(np.int64))


def _is_one_hot(targets: np.ndarray) -> bool:
    """Whether each row has a single 1 among zeros, which is one class for the whole sample."""
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(axis=1) == 1).all())


def _readable(targets: np.ndarray, where: str) -> np.ndarray:
    """Return targets as int64, floats or texts; a last or second axis of size 1 is dropped."""
    if not targets.size:
        raise InputError("no samples", where=where, expected="at least one", actual=targets.shape)
    if targets.dtype == object and all(isinstance(value, str) for value in targets.ravel()):
        targets = targets.astype(np.str_)
    if targets.dtype.kind not in "biufU":
        raise InputError(
            "targets of an unsupported type",
            where=where,
            expected="integers, texts or floats",
            actual=targets.dtype,
        )
    if targets.dtype.kind == "u" and targets.max() > np.iinfo(np.int64).max:
        raise InputError(
            "a target is too large",
            where=where,
            expected=f"integers up to {np.iinfo(np.int64).max}",
            actual=targets.max(),
        )
    if targets.dtype.kind in "bu" or targets.dtype == np.int8:
        targets = targets.astype(np.int64)
    if targets.ndim == 2 and targets.shape[1] == 1:
        return targets[:, 0]
    return targets[:, 0] if targets.ndim == 4 and targets.shape[1] == 1 else targets


def _class_names(classes: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the given names; empty if there are none."""
    if classes is None:
        return ()
    names = tuple(str(name) for name in classes)
    if not names or len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise InputError(
            "invalid names of classes",
            where=f"{where}classes",
            expected=f"1 to {MOST_CLASSES:,} different names",
            actual=f"{len(names):,} names, {len(set(names)):,} of them different",
        )
    return names


def _encoded(
    train: np.ndarray, test: np.ndarray, names: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray]]:
    """Return names of classes, and each target as the index of its class."""
    if names and train.dtype.kind == "i":
        places = ((train, f"{where}y_train"), (test, f"{where}y_test"))
        indices = [check_labels(labels, len(names), place) for labels, place in places]
        return names, (indices[0], indices[1])
    known = np.array(names) if names else np.unique(train)
    if len(known) > MOST_CLASSES:
        raise InputError(
            "too many classes",
            where=f"{where}y_train",
            expected=f"at most {MOST_CLASSES:,} different targets",
            actual=f"{len(known):,}",
            mend="for values to be predicted, convert the targets to floats",
        )
    order = np.argsort(known, kind="stable")
    encoded = []
    for labels, place in ((train, f"{where}y_train"), (test, f"{where}y_test")):
        unknown = np.setdiff1d(labels, known)
        if len(unknown):
            listed = ", ".join(printable(str(label), 40) for label in unknown[:LISTED])
            raise InputError(
                "targets of unknown classes",
                where=place,
                expected="the given classes" if names else "classes of the training targets",
                actual=listed + (f" and {len(unknown) - LISTED} more" * (len(unknown) > LISTED)),
            )
        encoded.append(order[np.searchsorted(known, labels, sorter=order)].astype(np.int64))
    return names or tuple(str(label) for label in known.tolist()), (encoded[0], encoded[1])


def _floats(values: Any, where: str) -> np.ndarray:
    """Return targets as float32, all of them finite."""
    with np.errstate(over="ignore"):
        found: np.ndarray = values.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(axis=1))
    if len(wrong):
        raise InputError(
            f"NaN or infinity in {len(wrong)} of {len(found)} targets",
            where=f"{where}: sample {int(wrong[0])}",
            expected="finite numbers of float32",
            mend="leave samples without a target out",
        )
    return found
