"""Compares the outputs of two models."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.checking.agreement import (
    RELATIVE_TOLERANCE,
    SCALED_TOLERANCE,
    Agreement,
    agreement_of,
)
from hwnas.checking.outputs import Feeds, Output, Predict, arrays_of, in_order_of
from hwnas.errors import InputError
from hwnas.inspection.process import Precision

NO_SIGNAL_DB = -999.0
"""SQNR of outputs without any signal, and of outputs with errors that are not finite."""
CONSTANT_TOLERANCE = 1e-6
"""Largest variation, relative to the largest value, of a channel that counts as constant."""
REPEATED_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 1e-2}
"""Largest difference between two runs on the same feeds, relative to the channel's largest value.

Sums that are taken in another order each time cause differences below it.
"""

Matched = Sequence[tuple[np.ndarray, np.ndarray]]
"""Arrays of one output of the reference and of the model, with equal shapes."""


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
        agreements: the agreement of each output that gives classes.
        batches: number of batches compared.
        values: number of output values compared; 0 if all outputs were empty.
        constant: whether the outputs of the reference do not depend on its inputs. Equal outputs
            then prove nothing.
    """

    max_abs_error: float | None
    within_tolerance: bool
    sqnr_db: float | None
    agreements: tuple[Agreement, ...]
    batches: int
    values: int
    constant: bool = False

    @property
    def top1_agreement(self) -> float | None:
        """The smallest share of equal classes of an output; None if none gives classes."""
        return min((found.share for found in self.agreements), default=None)

    def to_json(self) -> dict[str, Any]:
        """The comparison as an object of the check's document."""
        return {
            "max_abs_error": self.max_abs_error,
            "sqnr_db": self.sqnr_db,
            "top1_agreement": self.top1_agreement,
            "batches": self.batches,
            "values": self.values,
            "constant": self.constant,
        }


def compare(
    reference: Predict,
    model: Predict,
    pairs: Iterable[tuple[Feeds, Feeds]],
    where: str,
    *,
    least_sqnr_db: float = 80.0,
) -> Parity:
    """Run two models on the same feeds and compare their outputs.

    Args:
        reference: the model whose outputs are taken as correct.
        model: the model that is compared with it.
        pairs: pairs of feeds with equal shapes, at least one pair. Whether the outputs are
            constant is judged by pairs whose values differ.
        where: the model file, for errors.
        least_sqnr_db: signal-to-noise ratio in dB that the model's number format allows, which
            decides which scores are tied.

    Raises:
        InputError: when the outputs differ in number, kind of element or shape. Sizes that depend
            on the values of the inputs may differ; such outputs count as wrong.
    """
    expected: list[list[Output]] = []
    found: list[list[Output]] = []
    constant, variable = True, set[int]()
    for pair in pairs:
        outputs = [(reference(feeds), model(feeds)) for feeds in pair]
        theirs = [[*in_order_of(one, [*other]).values()] for one, other in outputs]
        ours = [[*other.values()] for _, other in outputs]
        constant = constant and all(map(_is_same_output, *theirs)) and not _is_same_feed(*pair)
        for first, second in (theirs, ours):
            sizes = enumerate(zip(map(_shapes, first), map(_shapes, second), strict=True))
            variable |= {index for index, (one, other) in sizes if one != other}
        expected += theirs
        found += ours
    return compare_outputs(
        expected,
        found,
        where,
        least_sqnr_db=least_sqnr_db,
        constant=constant,
        variable=variable,
    )


def compare_outputs(
    expected: Sequence[Sequence[Output]],
    found: Sequence[Sequence[Output]],
    where: str,
    *,
    least_sqnr_db: float = 80.0,
    constant: bool = False,
    variable: Collection[int] = (),
) -> Parity:
    """Compare outputs that a model should have with those that it has.

    Args:
        expected: for each batch, the outputs that are correct.
        found: for each batch, the outputs of the model, in the same order.
        where: the model file, for errors.
        least_sqnr_db: as in `compare`.
        constant: whether the correct outputs do not depend on the inputs.
        variable: indices of outputs whose sizes depend on the values of the inputs.

    Raises:
        InputError: when the outputs differ in number, kind of element or shape.
    """
    if any(len(a) != len(b) for a, b in zip(expected, found, strict=True)):
        raise _unlike(expected[0], found[0], where)
    worst_db, worst_error, values = math.inf, 0.0, 0
    agreements: list[Agreement] = []
    within = comparable = True
    for index in range(len(expected[0])):
        pairs = [(a[index], b[index]) for a, b in zip(expected, found, strict=True)]
        matched, unmatched = _matched(pairs, where, may_differ=index in variable)
        values += sum(a.size for a, _ in matched) + unmatched
        within, comparable = within and not unmatched, comparable and not unmatched
        if matched and matched[0][0].dtype.kind == "f":
            error, is_within, sqnr_db = _distance(matched)
            within, comparable = within and is_within, comparable and error is not None
            worst_error, worst_db = max(worst_error, error or 0.0), min(worst_db, sqnr_db)
        agreement = agreement_of(matched, least_sqnr_db, unmatched)
        agreements += [] if agreement is None else [agreement]
    return Parity(
        max_abs_error=worst_error if comparable else None,
        within_tolerance=within,
        sqnr_db=worst_db if math.isfinite(worst_db) else None,
        agreements=tuple(agreements),
        batches=len(expected),
        values=values,
        constant=constant,
    )


def _matched(
    pairs: Iterable[tuple[Output, Output]], where: str, *, may_differ: bool
) -> tuple[Matched, int]:
    """Arrays of equal shape, and how many values stand in arrays without a counterpart."""
    matched: list[tuple[np.ndarray, np.ndarray]] = []
    unmatched = 0
    for pair in pairs:
        theirs, ours = map(arrays_of, pair)
        is_alike = len(theirs) == len(ours) and all(
            _kind(a) == _kind(b) and a.ndim == b.ndim for a, b in zip(theirs, ours, strict=True)
        )
        if is_alike and _shapes(pair[0]) == _shapes(pair[1]):
            matched += zip(theirs, ours, strict=True)
        elif may_differ and (is_alike or len(theirs) != len(ours)):
            unmatched += max(sum(array.size for array in arrays) for arrays in (theirs, ours))
        else:
            raise _unlike([pair[0]], [pair[1]], where)
    return matched, unmatched


def _is_same_feed(first: Feeds, second: Feeds) -> bool:
    """Whether two feeds have the same values, so that equal outputs say nothing about the model."""
    return all(np.array_equal(first[name], second[name]) for name in first)


def _unlike(expected: Sequence[Output], found: Sequence[Output], where: str) -> InputError:
    return InputError(
        "the outputs differ in shape or type from those of the reference",
        where=where,
        expected=[_described(output) for output in expected],
        actual=[_described(output) for output in found],
    )


def _described(output: Output) -> str:
    if isinstance(output, tuple):
        return f"a sequence of {len(output)}"
    return f"{output.dtype} {list(output.shape)}"


def _shapes(output: Output) -> list[tuple[int, ...]]:
    return [array.shape for array in arrays_of(output)]


def _kind(array: np.ndarray) -> str:
    """The kind of an array's elements; texts are objects or fixed-length strings."""
    return "O" if array.dtype.kind in "OU" else array.dtype.kind


def _distance(outputs: Matched) -> tuple[float | None, bool, float]:
    """Largest error, whether all errors are within tolerance, and the SQNR in dB."""
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


def differs_from_run_to_run(predict: Predict, feeds: Feeds, precision: Precision) -> bool:
    """Whether a model gives different outputs for the same feeds, as random operators cause.

    Rounding differences of sums that are taken in another order each time, as on a GPU, do not
    count.
    """
    first, second = (list(predict(feeds).values()) for _ in range(2))
    tolerance = REPEATED_TOLERANCE[precision]
    return not all(_is_same_output(a, b, tolerance) for a, b in zip(first, second, strict=True))


def _is_same_output(a: Output, b: Output, tolerance: float = CONSTANT_TOLERANCE) -> bool:
    """Whether the arrays of two outputs are the same, see `_is_same`."""
    if _shapes(a) != _shapes(b):
        return False
    pairs = zip(arrays_of(a), arrays_of(b), strict=True)
    return all(_is_same(one, other, tolerance) for one, other in pairs)


def _is_same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
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
