"""Inputs for a model: random values, or samples from an npz file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hwnas.checking.inputs.array_samples import LABELS, samples_from_arrays
from hwnas.checking.inputs.input_sizes import InputSizes
from hwnas.checking.inputs.open_sizes import Shapes, StatedSizes, resolve_inputs
from hwnas.checking.inputs.samples import Samples
from hwnas.checking.outputs import Feeds
from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.inspection.process import Inspection

MAX_FEED_BYTES = 2**30
"""Limit on the memory of all inputs of one inference together."""


@dataclass(frozen=True)
class FeedMaker:
    """Generates feeds: an array for each input of a model.

    Attributes:
        inputs: types and shapes, in the order of the model's inputs.
        batch: batch size of a single inference. For a model whose sizes are all fixed, the first
            dimension if all inputs share it, else 1.
        samples: real inputs, if there are any.
        first: the arrays of the first sample, by input, if there are any. Random feeds have its
            integers and texts, which may be sizes, indices or words that no random value stands
            for.
    """

    inputs: tuple[InputSizes, ...]
    batch: int
    samples: Samples | None = None
    first: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_dynamic(self) -> bool:
        """Whether the model's batch dimension is open."""
        return any(given.batch_axis is not None for given in self.inputs)

    def is_affordable(self, batch: int) -> bool:
        """Whether the inputs for a batch size take at most 1 GiB together."""
        return sum(given.size_bytes(batch) for given in self.inputs) <= MAX_FEED_BYTES

    def random(self, batch: int, seed: int) -> Feeds:
        """Random values, but integers and texts of the first sample; the same for the same seed."""
        rng = np.random.default_rng(seed)
        return {
            given.name: _repeated(self.first[given.name], given, batch)
            if given.name in self.first and not given.is_floating
            else given.random(batch, rng)
            for given in self.inputs
        }

    def repeated(self, batch: int) -> Feeds:
        """The first sample for each sample of the batch, or random values if there is none."""
        if not self.first:
            return self.random(batch, 0)
        return {g.name: _repeated(self.first[g.name], g, batch) for g in self.inputs}

    def real(self, batch: int, seed: int) -> Feeds:
        """Samples that the seed chooses, or random values if there are no samples."""
        if self.samples is None:
            return self.random(batch, seed)
        size = batch if self.is_dynamic else 1
        return self.samples.take(np.random.default_rng(seed).choice(self.samples.count, size))

    def pairs(
        self, batches: Sequence[int], *, only_real: bool = False
    ) -> Iterator[tuple[Feeds, Feeds]]:
        """Two different feeds for each batch size, to compare models on.

        The values for a batch size do not depend on the other sizes in `batches`.

        Args:
            batches: batch sizes; one that occurs twice gives two different pairs.
            only_real: whether the second feed of a pair also holds samples, instead of random
                values.

        Yields:
            Samples, or random values if there are none, and a second feed. Both may be the same
            sample.
        """
        has_random = not self.first or any(given.is_floating for given in self.inputs)
        second = self.random if has_random and not only_real else self.real
        seen: Counter[int] = Counter()
        for batch in batches:
            seed = 2 * (batch + seen[batch])
            seen[batch] += 1
            yield self.real(batch, seed), second(batch, seed + 1)


def feeds_for(
    model: Inspection,
    stated: StatedSizes,
    data: Path | None,
    default_batch: int,
) -> FeedMaker:
    """Decide every size of a model's inputs, and load samples.

    The first dimension of an input is the batch if it is open, and so is every dimension with the
    same symbol. Other open sizes are those that are stated, or else those of the arrays in `data`,
    see `resolve_inputs`.

    Args:
        model: the inspected model.
        stated: sizes that the model leaves open.
        data: an inspected npz file with an array for each input, under the input's name, and
            optionally `labels`; or None.
        default_batch: batch size of one inference if no stated shape has it.

    Raises:
        InputError: when the size of an input is unknown, or a shape or an array does not fit.
    """
    if data is None:
        return feeds_of_arrays(model, stated, None, None, "", default_batch)
    arrays = read_npz_arrays(data)
    labels = arrays.pop(LABELS, None) if LABELS not in {v.name for v in model.inputs} else None
    return feeds_of_arrays(model, stated, arrays, labels, str(data), default_batch)


def feeds_of_arrays(
    model: Inspection,
    stated: StatedSizes,
    arrays: Mapping[str, np.ndarray] | None,
    labels: np.ndarray | None,
    source: str,
    default_batch: int,
) -> FeedMaker:
    """Decide every size of a model's inputs, and split arrays into samples.

    Args:
        model: the inspected model.
        stated: sizes that the model leaves open.
        arrays: an array for each input, under the input's name; None for random inputs.
        labels: the class of each sample, or None.
        source: where the arrays come from, for errors.
        default_batch: batch size of one inference if no stated shape has it.

    Raises:
        InputError: when the size of an input is unknown, or a shape or an array does not fit.
    """
    where = str(model.path)
    _require_input_names(stated.shapes, model, "--input")
    if arrays is not None:
        _require_input_names(arrays, model, source)
        missing = [value.name for value in model.inputs if value.name not in arrays]
        if missing:
            raise InputError("an input has no array", where=source, expected=missing[0])
    inputs = resolve_inputs(model, stated, arrays or {})
    maker = FeedMaker(inputs, _batch_of(inputs, stated.shapes, default_batch))
    _require_affordable(maker, where)
    if arrays is None:
        return maker
    samples = samples_from_arrays(inputs, arrays, labels, source, is_dynamic=maker.is_dynamic)
    return replace(maker, samples=samples, first=samples.take(np.arange(1)))


def _repeated(array: np.ndarray, given: InputSizes, batch: int) -> np.ndarray:
    """The array of one sample, repeated along the batch dimension."""
    axis = given.batch_axis
    return array if axis is None else np.repeat(array, batch, axis)


def _batch_of(inputs: Sequence[InputSizes], shapes: Shapes, default_batch: int) -> int:
    """Batch size of one inference, see `FeedMaker.batch`."""
    if all(given.batch_axis is None for given in inputs):
        firsts = {given.sizes[0] if given.sizes else None for given in inputs}
        return firsts.pop() or 1 if len(firsts) == 1 else 1
    stated = {
        shapes[given.name][given.batch_axis]
        for given in inputs
        if given.batch_axis is not None and given.name in shapes
    }
    if len(stated) > 1 or 0 in stated:
        cause = "the batch is empty" if stated == {0} else "the inputs have different batch sizes"
        raise InputError(cause, where="--input", actual=sorted(stated))
    return stated.pop() if stated else default_batch


def _require_input_names(named: Mapping[str, object], model: Inspection, where: str) -> None:
    names = [value.name for value in model.inputs]
    for name in named:
        if name not in names:
            raise InputError(
                "the model has no such input", where=where, expected=names, actual=name
            )


def _require_affordable(maker: FeedMaker, where: str) -> None:
    if not maker.is_affordable(maker.batch):
        largest = max(maker.inputs, key=lambda given: given.size_bytes(maker.batch))
        raise InputError(
            "the inputs are too large",
            where=f"{where}: input {largest.name!r}",
            expected=f"at most {MAX_FEED_BYTES} bytes for all inputs",
            actual=largest.shape(maker.batch),
        )
