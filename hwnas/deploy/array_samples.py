"""Samples and labels from the arrays of an npz file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from hwnas.deploy.input_sizes import InputSizes
from hwnas.deploy.parity import Feeds
from hwnas.deploy.samples import Samples
from hwnas.errors import InputError

LABELS = "labels"
"""Name of the array with the class of each sample."""


def samples_from_arrays(
    inputs: Sequence[InputSizes],
    arrays: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    where: str,
    *,
    is_dynamic: bool,
) -> Samples:
    """Split arrays into samples along the batch dimension.

    If the batch size of the model is fixed, a sample is a whole batch, taken from the first
    dimension.

    Args:
        inputs: types and shapes of the model's inputs.
        arrays: an array for each input, by name.
        labels: the class of each row, (rows,), or None.
        where: the npz file, for errors.
        is_dynamic: whether the model's batch dimension is open.

    Raises:
        InputError: when an array or the labels do not fit the inputs.
    """
    converted: dict[str, np.ndarray] = {}
    counts: set[int] = set()
    axes: dict[str, tuple[int, int]] = {}
    for given in inputs:
        array = _converted(arrays[given.name], given, where)
        axis = given.batch_axis if is_dynamic else 0 if given.sizes else None
        if axis is not None:
            rows = 1 if is_dynamic else given.shape(1)[axis]
            counts.add(array.shape[axis] // rows)
            axes[given.name] = (axis, rows)
        _require_shape(array, given, axis, where)
        converted[given.name] = array
    count = counts.pop() if len(counts) == 1 else 0
    if count < 1:
        raise InputError(
            "arrays of unequal length, or shorter than the batch",
            where=where,
            actual=sorted(counts),
        )
    batch = 1 if is_dynamic else max(rows for _, rows in axes.values())
    targets = None if labels is None else _targets(labels, count, batch, where)
    return Samples(count, partial(_take, converted, axes), targets)


def _take(
    arrays: Mapping[str, np.ndarray], axes: Mapping[str, tuple[int, int]], chosen: np.ndarray
) -> Feeds:
    """The chosen samples of each array, along its (axis, rows of a sample)."""
    feeds = {}
    for name, array in arrays.items():
        if name in axes:
            axis, rows = axes[name]
            indices = (chosen[:, None] * rows + np.arange(rows)).ravel()
            feeds[name] = np.take(array, indices, axis=axis)
        else:
            feeds[name] = array
    return feeds


def _targets(labels: np.ndarray, count: int, batch: int, where: str) -> np.ndarray:
    """Labels as (samples, batch)."""
    if labels.ndim != 1 or len(labels) < count * batch or labels.dtype.kind not in "iuU":
        raise InputError(
            "the labels do not fit the samples",
            where=f"{where}: {LABELS}",
            expected=f"{count * batch} integers or strings",
            actual=f"{labels.dtype} {labels.shape}",
        )
    return labels[: count * batch].reshape(count, batch)


def _converted(array: np.ndarray, given: InputSizes, where: str) -> np.ndarray:
    """The array in the element type of its input."""
    if given.dtype is np.object_ and array.dtype.kind == "U":
        return array.astype(object)
    if not np.can_cast(array.dtype, given.dtype, casting="same_kind"):
        raise InputError(
            "the array has the wrong type",
            where=f"{where}: {given.name}",
            expected=np.dtype(given.dtype),
            actual=array.dtype,
        )
    return array.astype(given.dtype)


def _require_shape(array: np.ndarray, given: InputSizes, axis: int | None, where: str) -> None:
    """Refuse an array whose shape differs from its input's in another dimension than `axis`."""
    expected = tuple("N" if i == axis else size for i, size in enumerate(given.shape(1)))
    found = tuple("N" if i == axis else size for i, size in enumerate(array.shape))
    if found != expected:
        raise InputError(
            "the array has the wrong shape",
            where=f"{where}: {given.name}",
            expected=expected,
            actual=array.shape,
        )
