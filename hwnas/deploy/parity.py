"""Compares the outputs of two models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.errors import InputError, first_line
from hwnas.inspection.process import Precision
from hwnas.latency_tables.runtimes.base import Infer

NO_SIGNAL_DB = -999.0
"""SQNR of outputs without any signal, and of outputs with errors that are not finite."""
RELATIVE_TOLERANCE, SCALED_TOLERANCE = 1e-3, 1e-4
"""Tolerances of a single value, see `Parity.within_tolerance`."""
CONSTANT_TOLERANCE = 1e-6
"""Largest variation, relative to the largest value, of a channel that counts as constant."""
REPEATED_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 1e-2}
"""Largest difference between two runs on the same feeds, relative to the channel's largest value.

Sums that are taken in another order each time cause differences below it.
"""

Feeds = dict[str, np.ndarray]
"""An array for each input of a model, by name."""
Outputs = dict[str, np.ndarray]
"""An array for each output of a model, by name."""
Predict = Callable[[Feeds], Outputs]
"""Runs one inference."""


@dataclass(frozen=True)
class Parity:
    """How close a model's outputs are to those of its reference.

    Attributes:
        max_abs_error: largest absolute error of all floating-point outputs; None if it is not
            finite, or if values that are not finite differ.
        within_tolerance: whether `|error| <= 1e-3 |reference| + 1e-4 max|reference|` holds for
            every value. The maximum is taken over the channels that are not constant.
        sqnr_db: signal-to-quantisation-noise ratio in dB of the worst output; None if there is no
            error at all. The signal is that of the channels that are not constant.
        top1_agreement: share of samples that are given the same class, or of equal values for
            outputs of integers or strings; None if there are no such outputs.
        batches: number of batches compared.
        constant: whether the outputs of the reference do not depend on its inputs. Equal outputs
            then prove nothing.
    """

    max_abs_error: float | None
    within_tolerance: bool
    sqnr_db: float | None
    top1_agreement: float | None
    batches: int
    constant: bool = False

    def to_json(self) -> dict[str, Any]:
        """The comparison as an object of the check's document."""
        return {
            "max_abs_error": self.max_abs_error,
            "sqnr_db": self.sqnr_db,
            "top1_agreement": self.top1_agreement,
            "batches": self.batches,
            "constant": self.constant,
        }


def as_predict(infer: Infer, where: str) -> Predict:
    """Wrap a model on a runtime, so that its outputs are arrays and its errors are InputError.

    Args:
        infer: runs the model.
        where: the model file, for errors.

    Returns:
        A function that raises InputError when the model cannot run with the given feeds.
    """

    def predict(feeds: Feeds) -> Outputs:
        try:
            found = infer(feeds)
        except Exception as error:  # the runtime's exceptions share no base class
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise InputError(
                f"the model cannot run with inputs {shapes}",
                where=where,
                actual=first_line(error),
            ) from None
        return _arrays(found)

    return predict


def _arrays(outputs: Mapping[str, Any]) -> Outputs:
    """Outputs as arrays.

    A sequence of maps becomes a table with a column for each key, in sorted order. Any other
    sequence becomes one array for each item.
    """
    found: Outputs = {}
    for name, value in outputs.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found[name] = np.array([[row[key] for key in sorted(row)] for row in value])
        elif isinstance(value, list):
            found |= {f"{name}[{index}]": np.asarray(item) for index, item in enumerate(value)}
        else:
            found[name] = np.asarray(value)
    return found


def compare(
    reference: Predict, model: Predict, pairs: Iterable[tuple[Feeds, Feeds]], where: str
) -> Parity:
    """Run two models on the same feeds and compare their outputs.

    Args:
        reference: the model whose outputs are taken as correct.
        model: the model that is compared with it.
        pairs: pairs of feeds with equal shapes and different values, at least one pair.
        where: the model file, for errors.

    Raises:
        InputError: when the outputs differ in number, shape or kind of element.
    """
    expected: list[list[np.ndarray]] = []
    found: list[list[np.ndarray]] = []
    constant = True
    for pair in pairs:
        first, second = (list(reference(feeds).values()) for feeds in pair)
        constant = constant and all(map(_is_same, first, second))
        expected += [first, second]
        found += [list(model(feeds).values()) for feeds in pair]
    _require_equal_shapes(expected, found, where)
    worst_db, worst_error, agreement = math.inf, 0.0, []
    within = comparable = True
    for index in range(len(expected[0])):
        outputs = [(a[index], b[index]) for a, b in zip(expected, found, strict=True)]
        if outputs[0][0].dtype.kind == "f":
            error, is_within, sqnr_db = _distance(outputs)
            within, comparable = within and is_within, comparable and error is not None
            worst_error, worst_db = max(worst_error, error or 0.0), min(worst_db, sqnr_db)
        agreement += _agreements(outputs)
    return Parity(
        max_abs_error=worst_error if comparable else None,
        within_tolerance=within,
        sqnr_db=worst_db if math.isfinite(worst_db) else None,
        top1_agreement=min(agreement) if agreement else None,
        batches=len(expected),
        constant=constant,
    )


def _distance(
    outputs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[float | None, bool, float]:
    """Largest error, whether all errors are within tolerance, and the SQNR in dB.

    Args:
        outputs: for each batch, an output of the reference and of the model.
    """
    a, b = (_by_channel([pair[i] for pair in outputs]) for i in (0, 1))
    finite = np.isfinite(a)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(b[finite]).all()
    ):
        return None, False, NO_SIGNAL_DB
    if not a.size:
        return 0.0, True, math.inf
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    largest = np.abs(a).max(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        varies = a.max(axis=1) - a.min(axis=1) > CONSTANT_TOLERANCE * largest
        scale = float(largest[varies].max() if varies.any() else largest.max())
        error = np.abs(a - b)
        tolerance = RELATIVE_TOLERANCE * np.abs(a) + SCALED_TOLERANCE * scale
        # Divided before squaring, because squares of large numbers overflow.
        signal = a[varies] / scale if varies.any() else a / scale
        noise_power = float(np.square(b / scale - a / scale).sum())
        ratio = float(np.square(signal).sum()) / noise_power if noise_power else math.inf
    if not error.any():
        sqnr_db = math.inf
    else:
        sqnr_db = 10 * math.log10(ratio) if 0 < ratio < math.inf else NO_SIGNAL_DB
    worst = float(error.max())
    return worst if math.isfinite(worst) else None, bool((error <= tolerance).all()), sqnr_db


def _by_channel(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """All values in float64, (channels, values).

    The second axis holds the channels, if all outputs have the same size there; otherwise all
    values form one channel.
    """
    channels = {output.shape[1] if output.ndim > 1 else 1 for output in outputs}
    rows = channels.pop() if len(channels) == 1 else 1
    parts = [
        (np.moveaxis(output, 1, 0) if output.ndim > 1 and rows > 1 else output).reshape(rows, -1)
        for output in outputs
        if output.size
    ]
    return np.concatenate(parts, axis=1).astype(np.float64) if parts else np.zeros((1, 0))


def _agreements(outputs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Share of equal classes or values as a list of one; empty for an output without classes."""
    pairs = [(classes_of(a), classes_of(b)) for a, b in outputs]
    same = [np.asarray(a == b).ravel() for a, b in pairs if a is not None and b is not None]
    return [float(np.concatenate(same).mean())] if same else []


def classes_of(output: np.ndarray) -> np.ndarray | None:
    """The class of each sample: the largest of K >= 2 scores (N, K), or an integer or string.

    Returns:
        Classes, or None for floating-point outputs of another shape.
    """
    if output.dtype.kind != "f":
        return output
    return output.argmax(axis=1) if output.ndim == 2 and output.shape[1] > 1 else None


def differs_from_run_to_run(predict: Predict, feeds: Feeds, precision: Precision) -> bool:
    """Whether a model gives different outputs for the same feeds, as random operators cause.

    Rounding differences of sums that are taken in another order each time, as on a GPU, do not
    count.
    """
    first, second = (list(predict(feeds).values()) for _ in range(2))
    tolerance = REPEATED_TOLERANCE[precision]
    return not all(_is_same(a, b, tolerance) for a, b in zip(first, second, strict=True))


def _is_same(a: np.ndarray, b: np.ndarray, tolerance: float = CONSTANT_TOLERANCE) -> bool:
    """Whether arrays are equal up to a tolerance relative to the largest value of each channel."""
    if a.shape != b.shape or a.dtype.kind != "f":
        return a.shape == b.shape and bool(np.all(a == b))
    if not a.size:
        return True
    first, second = _by_channel([a]), _by_channel([b])
    scale = np.abs(np.where(np.isfinite(first), first, 0.0)).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(first - second) <= tolerance * scale
    near |= (first == second) | (np.isnan(first) & np.isnan(second))
    return bool(near.all())


def _require_equal_shapes(
    expected: list[list[np.ndarray]], found: list[list[np.ndarray]], where: str
) -> None:
    for a, b in zip(expected, found, strict=True):
        shapes = [[list(output.shape) for output in outputs] for outputs in (a, b)]
        kinds = [[output.dtype.kind for output in outputs] for outputs in (a, b)]
        if shapes[0] != shapes[1] or kinds[0] != kinds[1]:
            raise InputError(
                "the outputs differ in shape or type from those of the reference",
                where=where,
                expected=shapes[0],
                actual=shapes[1],
            )
