"""Counts the values in a model's outputs that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.checking.inputs.feeds import FeedMaker
from hwnas.checking.outputs import Feeds, Output, Predict, arrays_of, in_order_of
from hwnas.checking.references import Reference

MOST_SAMPLES = 256
"""Number of samples, or of random inputs, that outputs are looked at for."""


@dataclass(frozen=True)
class FiniteCount:
    """Values of one output that are not finite although the inputs are.

    Attributes:
        output: name of the output.
        values: how many of its values are not finite.
        total: number of its values.
        samples: in how many samples, or inferences for outputs without a batch, they are.
        total_samples: number of samples or inferences.
    """

    output: str
    values: int
    total: int
    samples: int
    total_samples: int

    def sentence(self, *, is_random: bool) -> str:
        """What was found, in a sentence."""
        kind = "random inputs; --data gives others" if is_random else "samples"
        return (
            f"output {self.output!r}: {self.values} of {self.total} values are not finite, in "
            f"{self.samples} of {self.total_samples} {kind}"
        )


def count_not_finite(
    predict: Predict, reference: Reference | None, feeds: FeedMaker, batches: Sequence[int]
) -> list[FiniteCount]:
    """Count values that are not finite in each floating-point output.

    Samples whose inputs are not finite do not count, nor do values that the reference has too.

    Args:
        predict: runs the model.
        reference: the model or the outputs to compare with, or None.
        feeds: its samples are run, or random inputs if it has none.
        batches: batch sizes that run.

    Returns:
        A count for each output with floating-point values.
    """
    counts: dict[str, list[FiniteCount]] = {}
    for given, chosen in _ordinary(feeds, batches):
        good = _finite_samples(given, feeds, len(chosen))
        outputs = predict(given)
        masks = {name: _not_finite(output) for name, output in outputs.items()}
        if reference is not None and any(mask.any() for found in masks.values() for mask in found):
            if reference.expected is None:
                theirs = reference.predict(given)
            else:
                theirs = reference.expected(chosen)
            ordered = in_order_of(theirs, [*outputs]).values()
            expected = dict(zip(outputs, ordered, strict=False))
            masks = {n: _unless_same(m, outputs[n], expected.get(n)) for n, m in masks.items()}
        for name, found in masks.items():
            if found:
                counts.setdefault(name, []).append(_counted(name, found, good))
    return [_sum(name, found) for name, found in counts.items()]


def _ordinary(feeds: FeedMaker, batches: Sequence[int]) -> Iterator[tuple[Feeds, np.ndarray]]:
    """Feeds without special values, and the indices of the samples in each, (batch,)."""
    batch = max(batches, default=feeds.batch) if feeds.is_dynamic else 1
    samples = feeds.samples
    if samples is None:
        for seed in range(2):
            yield feeds.random(batch, seed), np.arange(batch)
        return
    count = min(samples.count, MOST_SAMPLES)
    if count < batch:
        # Batch sizes that were not tried might not run.
        batch = 1 if 1 in batches else batch
    for start in range(0, max(1, count - count % batch), batch):
        chosen = np.arange(start, start + batch) % samples.count
        yield samples.take(chosen), chosen


def _finite_samples(given: Feeds, feeds: FeedMaker, batch: int) -> np.ndarray:
    """Whether the inputs of each sample are finite, (batch,)."""
    good = np.ones(batch, bool)
    for sizes in feeds.inputs:
        array = given[sizes.name]
        if array.dtype.kind == "f":
            finite = np.isfinite(array)
            if sizes.batch_axis is None or sizes.sample_of_row is not None:
                good &= bool(finite.all())
            else:
                good &= np.moveaxis(finite, sizes.batch_axis, 0).reshape(batch, -1).all(axis=1)
    return good


def _not_finite(output: Output) -> list[np.ndarray]:
    return [~np.isfinite(array) for array in arrays_of(output) if array.dtype.kind == "f"]


def _unless_same(
    masks: list[np.ndarray], output: Output, expected: Output | None
) -> list[np.ndarray]:
    """The masks without values that the reference has at the same place."""
    theirs = () if expected is None else arrays_of(expected)
    floats = [array for array in arrays_of(output) if array.dtype.kind == "f"]
    if [array.shape for array in theirs] != [array.shape for array in floats]:
        return masks
    return [
        mask & ~((ours == other) | (np.isnan(ours) & np.isnan(other)))
        for mask, ours, other in zip(masks, floats, theirs, strict=True)
    ]


def _counted(name: str, masks: list[np.ndarray], good: np.ndarray) -> FiniteCount:
    """The count of one inference."""
    if all(mask.ndim and len(mask) == len(good) for mask in masks):
        masks = [mask[good] for mask in masks]
        bad = np.zeros(int(good.sum()), bool)
        for mask in masks:
            bad |= mask.any(axis=tuple(range(1, mask.ndim)))
    elif good.all():
        bad = np.array([any(mask.any() for mask in masks)])
    else:
        masks, bad = [], np.zeros(0, bool)
    return FiniteCount(
        name,
        sum(int(mask.sum()) for mask in masks),
        sum(mask.size for mask in masks),
        int(bad.sum()),
        len(bad),
    )


def _sum(name: str, counts: Sequence[FiniteCount]) -> FiniteCount:
    return FiniteCount(
        name,
        sum(count.values for count in counts),
        sum(count.total for count in counts),
        sum(count.samples for count in counts),
        sum(count.total_samples for count in counts),
    )
