"""Samples and labels from the arrays of an npz file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwnas.checking.inputs.input_sizes import InputSizes
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Feeds
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
    """Split arrays into samples.

    If the batch size of the model is open, a sample is a part of each array along its batch
    dimension. If it is fixed, a sample is a whole inference, taken from the first dimension. An
    array with one dimension more than its input has an inference in each row. An array without
    samples, of exactly the input's shape, belongs to all of them.

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
    parts: dict[str, _Parts] = {}
    for given in inputs:
        array = _converted(arrays[given.name], given, where)
        part = _parts_of(array, given, where, is_dynamic=is_dynamic)
        converted[given.name] = array[0] if part is _SAME_ROWS else array
        if isinstance(part, _Parts):
            parts[given.name] = part
    rows_of = {g.name: g.sample_of_row for g in inputs if g.sample_of_row is not None}
    divided = {name: part for name, part in parts.items() if name not in rows_of}
    counts = {part.count for part in divided.values()} or {1}
    if len(counts) > 1 or 0 in counts:
        least = max(part.rows for part in divided.values())
        raise InputError(
            "arrays of unequal length" if len(counts) > 1 else "too few rows for one inference",
            where=where,
            expected="as many samples in each" if len(counts) > 1 else f"{least} or more",
            actual=", ".join(f"{arrays[n].shape[p.axis]} in {n}" for n, p in divided.items()),
        )
    count = counts.pop()
    rows = max((given.sizes[0] or 0 for given in inputs if given.sizes), default=1)
    # A label for each inference, or one for each row of its batch.
    batch = 1 if is_dynamic or (labels is not None and len(labels) == count) else rows
    targets = None if labels is None else _targets(labels, count, batch, where)
    return Samples(count, partial(_take, converted, parts, rows_of), targets)


@dataclass(frozen=True)
class _Parts:
    """How an array is divided into samples.

    Attributes:
        count: number of samples.
        axis: the dimension that is divided.
        rows: size of a sample along it.
        is_row: whether a sample lacks the dimension.
    """

    count: int
    axis: int = 0
    rows: int = 1
    is_row: bool = False


_SHARED, _SAME_ROWS = object(), object()
"""Said of an array that all samples share: as it is, or its first row since all are equal."""


def _parts_of(
    array: np.ndarray, given: InputSizes, where: str, *, is_dynamic: bool
) -> _Parts | object:
    """How the array of an input is divided into samples, if it is."""
    if array.ndim == len(given.sizes) + 1 and given.batch_axis is None:
        _require_shape(array[0] if len(array) else array, given, None, where)
        if not is_dynamic:
            return _Parts(len(array), is_row=True)
        if (array == array[0]).all():
            return _SAME_ROWS
        raise InputError(
            "differs from inference to inference, and samples share an inference",
            where=f"{where}: {given.name}",
            mend="--no-batch runs one row of each array at a time",
        )
    if given.batch_axis is not None:
        _require_shape(array, given, given.batch_axis, where)
        return _Parts(array.shape[given.batch_axis], given.batch_axis)
    shape = given.shape(1)
    if is_dynamic or array.shape == shape or not shape or not shape[0]:
        _require_shape(array, given, None, where)
        return _SHARED
    _require_shape(array, given, 0, where)
    return _Parts(len(array) // shape[0], rows=shape[0])


def _take(
    arrays: Mapping[str, np.ndarray],
    parts: Mapping[str, _Parts],
    rows_of: Mapping[str, str],
    chosen: np.ndarray,
) -> Feeds:
    """The chosen samples of each array.

    Args:
        arrays: an array for each input, by name.
        parts: how arrays are divided into samples.
        rows_of: for arrays of rows, the array that tells which sample each row belongs to. Its
            numbers become places in the batch.
        chosen: indices of the samples.
    """
    feeds = {}
    for name, array in arrays.items():
        part = parts.get(name)
        if name in rows_of:
            rows = [np.flatnonzero(arrays[rows_of[name]] == sample) for sample in chosen]
            if name == rows_of[name]:
                places = np.repeat(np.arange(len(chosen)), [len(own) for own in rows])
                feeds[name] = places.astype(array.dtype)
            else:
                feeds[name] = array[np.concatenate(rows)]
        elif part is None:
            feeds[name] = array
        elif part.is_row:
            feeds[name] = array[chosen[0]]
        else:
            indices = (chosen[:, None] * part.rows + np.arange(part.rows)).ravel()
            feeds[name] = np.take(array, indices, axis=part.axis)
    return {name: np.asarray(array) for name, array in feeds.items()}


def _targets(labels: np.ndarray, count: int, batch: int, where: str) -> np.ndarray:
    """Labels as (samples, batch); those of rows behind the last whole batch are left out."""
    if labels.dtype == np.bool_:
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or len(labels) // batch != count or labels.dtype.kind not in "iuU":
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
    with np.errstate(over="ignore"):
        converted = array.astype(given.dtype)
    if np.dtype(given.dtype).itemsize < array.dtype.itemsize:
        _require_held(array, converted, f"{where}: {given.name}")
    return converted


def _require_held(array: np.ndarray, converted: np.ndarray, where: str) -> None:
    """Refuse numbers that the shorter type of an input cannot hold."""
    is_float = converted.dtype.kind == "f"
    is_lost = np.isinf(converted) & np.isfinite(array) if is_float else converted != array
    if is_lost.any():
        raise InputError(
            "a number is too large for the input",
            where=where,
            expected=f"numbers that {converted.dtype} can hold",
            actual=array[is_lost][0],
        )


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
