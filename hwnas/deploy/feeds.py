"""What a model is fed with: sizes that it leaves open, random values, arrays of a file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwnas.deploy.parity import Feeds
from hwnas.deploy.samples import Samples
from hwnas.errors import InputError
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.inspection.process import Inspection, Value

LABELS = "labels"
"""Name of the array that holds the samples' classes."""
MAX_FEED_BYTES = 2**30
"""Of all inputs of one inference together."""
TEXT_BYTES = 100
"""A short text with its place in an array, in memory."""
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "string": np.object_,
}


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Sizes of inputs from `name:1x3x224x224` or `name:1,3,224,224`; names may hold colons.

    Raises:
        InputError: when an option is written otherwise, or an input is named twice.
    """
    shapes = {}
    for option in options:
        name, colon, text = option.rpartition(":")
        sizes = [size.strip() for size in text.replace("x", ",").split(",")]
        if not (colon and name and all(s.isascii() and s.isdigit() and int(s) for s in sizes)):
            raise InputError(
                "not the shape of an input",
                where="--input",
                expected="NAME:1x3x224x224",
                actual=option,
            )
        if name in shapes:
            raise InputError("an input is named twice", where="--input", actual=name)
        shapes[name] = tuple(map(int, sizes))
    return shapes


@dataclass(frozen=True)
class InputSizes:
    """One input with all sizes but the batch's.

    Attributes:
        name: of the input.
        dtype: numpy's.
        sizes: with None where the batch stands.
    """

    name: str
    dtype: type[np.generic]
    sizes: tuple[int | None, ...]

    def shape(self, batch: int) -> tuple[int, ...]:
        """All sizes."""
        return tuple(batch if size is None else size for size in self.sizes)

    @property
    def batch_axis(self) -> int | None:
        """Where the batch stands, if anywhere."""
        return self.sizes.index(None) if None in self.sizes else None

    def size_bytes(self, batch: int) -> int:
        """What a feed of that batch takes."""
        is_text = self.dtype is np.object_
        return math.prod(self.shape(batch)) * (
            TEXT_BYTES if is_text else np.dtype(self.dtype).itemsize
        )

    def random(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Seeded values: normal numbers, any byte, 0 or 1 for other whole numbers and texts."""
        shape = self.shape(batch)
        if np.issubdtype(self.dtype, np.floating):
            if self.dtype is np.float32:
                return rng.standard_normal(shape, dtype=np.float32)
            return rng.standard_normal(shape).astype(self.dtype)
        if self.dtype is np.uint8:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        # Indices of tables with two rows or more.
        bits = rng.integers(0, 2, shape, dtype=np.int8)
        return (
            bits.astype(str).astype(object) if self.dtype is np.object_ else bits.astype(self.dtype)
        )


@dataclass(frozen=True)
class FeedMaker:
    """Makes feeds of a model.

    Attributes:
        inputs: in the model's order.
        batch: that a single inference takes; where no size is open, the first one that all
            inputs share, else 1.
        samples: real inputs, if there are any.
    """

    inputs: tuple[InputSizes, ...]
    batch: int
    samples: Samples | None = None

    @property
    def is_dynamic(self) -> bool:
        """Whether the model takes any batch."""
        return any(given.batch_axis is not None for given in self.inputs)

    def is_affordable(self, batch: int) -> bool:
        """Whether all inputs of that batch together stay below 1 GiB."""
        return sum(given.size_bytes(batch) for given in self.inputs) <= MAX_FEED_BYTES

    def random(self, batch: int, seed: int) -> Feeds:
        """Seeded random values for every input."""
        rng = np.random.default_rng(seed)
        return {given.name: given.random(batch, rng) for given in self.inputs}

    def real(self, batch: int, seed: int) -> Feeds:
        """Seeded samples; random values where there are none."""
        if self.samples is None:
            return self.random(batch, seed)
        size = batch if self.is_dynamic else 1
        return self.samples.take(np.random.default_rng(seed).choice(self.samples.count, size))

    def pairs(
        self, batches: Sequence[int], *, only_real: bool = False
    ) -> Iterator[tuple[Feeds, Feeds]]:
        """For each batch, real values where there are any, and random ones or more real ones.

        A batch has the same values whichever others there are.
        """
        second = self.real if only_real else self.random
        seen: Counter[int] = Counter()
        for batch in batches:
            seed = 2 * (batch + seen[batch])
            seen[batch] += 1
            yield self.real(batch, seed), second(batch, seed + 1)


def feeds_for(
    model: Inspection,
    shapes: Mapping[str, tuple[int, ...]],
    data: Path | None,
    default_batch: int,
) -> FeedMaker:
    """Decide every size of a model's inputs.

    The first size of an input is the batch where it is left open; the same symbol elsewhere is
    too. What else is left open comes from `shapes` or from the arrays.

    Args:
        model: the inspected model.
        shapes: of inputs, by name.
        data: an npz file that was inspected: arrays named as inputs, and maybe `labels`.
        default_batch: of one inference, unless `shapes` or the model states it.

    Raises:
        InputError: names the input whose size is unknown, or the array that does not fit.
    """
    arrays = {} if data is None else read_npz_arrays(data)
    labels = arrays.pop(LABELS, None) if LABELS not in {v.name for v in model.inputs} else None
    where = str(model.path)
    _require_known(shapes, model, "--input")
    if data is not None:
        _require_known(arrays, model, str(data))
        missing = [value.name for value in model.inputs if value.name not in arrays]
        if missing:
            raise InputError("an input has no array", where=str(data), expected=missing[0])
    batch_symbols: set[int | str | None] = {
        value.shape[0] for value in model.inputs if value.shape and isinstance(value.shape[0], str)
    }
    inputs, batches = [], set()
    for value in model.inputs:
        stated = shapes.get(value.name)
        given = _sized(value, stated, arrays.get(value.name), batch_symbols, where)
        inputs.append(given)
        if stated is not None and given.batch_axis is not None:
            batches.add(stated[given.batch_axis])
    if len(batches) > 1:
        raise InputError("inputs of several batches", where="--input", actual=sorted(batches))
    batch = batches.pop() if batches else default_batch
    maker = FeedMaker(tuple(inputs), batch)
    if not maker.is_dynamic:
        firsts = {given.sizes[0] if given.sizes else None for given in inputs}
        maker = FeedMaker(maker.inputs, firsts.pop() or 1 if len(firsts) == 1 else 1)
    _require_affordable(maker, where)
    if data is None:
        return maker
    return replace(maker, samples=_samples(maker, arrays, labels, str(data)))


def _require_known(named: Mapping[str, object], model: Inspection, where: str) -> None:
    names = [value.name for value in model.inputs]
    for name in named:
        if name not in names:
            raise InputError(
                "the model has no such input", where=where, expected=names, actual=name
            )


def _sized(
    value: Value,
    stated: tuple[int, ...] | None,
    array: np.ndarray | None,
    batch_symbols: set[int | str | None],
    where: str,
) -> InputSizes:
    where = f"{where}: input {value.name!r}"
    if value.dtype not in DTYPES:
        expected = f"a tensor of {', '.join(DTYPES)}"
        raise InputError(
            "cannot feed the model", where=where, expected=expected, actual=value.dtype
        )
    known = stated if stated is not None else None if array is None else array.shape
    declared = value.shape
    if declared is None:
        if stated is None:
            raise _unsized(value, "any number of dimensions", where)
        declared = tuple(stated)
    if known is not None and len(known) != len(declared):
        raise InputError(
            "another number of dimensions", where=where, expected=declared, actual=known
        )
    sizes: list[int | None] = []
    for axis, size in enumerate(declared):
        if isinstance(size, int):
            if stated is not None and stated[axis] != size:
                raise InputError(
                    "another shape than the model declares",
                    where=where,
                    expected=declared,
                    actual=stated,
                )
            sizes.append(size)
        elif axis == 0 or size in batch_symbols:
            sizes.append(None)
        elif known is None:
            raise _unsized(value, size or f"dimension {axis}", where)
        else:
            sizes.append(known[axis])
    return InputSizes(value.name, DTYPES[value.dtype], tuple(sizes))


def _unsized(value: Value, what: str, where: str) -> InputError:
    example = "x".join(str(s if isinstance(s, int) else 1) for s in value.shape or (1, 3, 224, 224))
    return InputError(
        "a size is left open",
        where=where,
        actual=what,
        mend=f"state it with --input {value.name}:{example}, or give samples with --data",
    )


def _require_affordable(maker: FeedMaker, where: str) -> None:
    if not maker.is_affordable(maker.batch):
        largest = max(maker.inputs, key=lambda given: given.size_bytes(maker.batch))
        raise InputError(
            "a gigantic shape",
            where=f"{where}: input {largest.name!r}",
            expected=f"at most {MAX_FEED_BYTES} bytes for all inputs",
            actual=largest.shape(maker.batch),
        )


def _samples(
    maker: FeedMaker, arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, where: str
) -> Samples:
    """Slices of arrays along the batch; whole batches of them where it is fixed."""
    converted, counts, axes = {}, set(), {}
    for given in maker.inputs:
        array = _converted(arrays[given.name], given, where)
        axis = given.batch_axis if maker.is_dynamic else 0 if given.sizes else None
        if axis is not None:
            unit = 1 if maker.is_dynamic else given.shape(1)[axis]
            counts.add(array.shape[axis] // unit)
            axes[given.name] = (axis, unit)
        _require_fits(array, given, axis, where)
        converted[given.name] = array
    count = counts.pop() if len(counts) == 1 else 0
    if count < 1:
        raise InputError(
            "arrays of unequal length, or shorter than the batch",
            where=where,
            actual=sorted(counts),
        )

    def take(chosen: np.ndarray) -> Feeds:
        feeds = {}
        for name, array in converted.items():
            axis, unit = axes.get(name, (None, 1))
            if axis is not None:
                indices = (chosen[:, None] * unit + np.arange(unit)).ravel()
                array = np.take(array, indices, axis=axis)
            feeds[name] = array
        return feeds

    if labels is not None:
        batch = 1 if maker.is_dynamic else max(unit for _, unit in axes.values())
        if labels.ndim != 1 or len(labels) < count * batch or labels.dtype.kind not in "iuU":
            raise InputError(
                "bad labels",
                where=f"{where}: {LABELS}",
                expected=f"{count * batch} whole numbers or texts",
                actual=f"{labels.dtype} {labels.shape}",
            )
        labels = labels[: count * batch].reshape(count, batch)
    return Samples(count, take, labels)


def _converted(array: np.ndarray, given: InputSizes, where: str) -> np.ndarray:
    if given.dtype is np.object_ and array.dtype.kind == "U":
        return array.astype(object)
    if not np.can_cast(array.dtype, given.dtype, casting="same_kind"):
        raise InputError(
            "an array of another type",
            where=f"{where}: {given.name}",
            expected=np.dtype(given.dtype),
            actual=array.dtype,
        )
    return array.astype(given.dtype)


def _require_fits(array: np.ndarray, given: InputSizes, axis: int | None, where: str) -> None:
    expected = tuple("N" if i == axis else size for i, size in enumerate(given.shape(1)))
    found = tuple("N" if i == axis else size for i, size in enumerate(array.shape))
    if found != expected:
        raise InputError(
            "an array of another shape",
            where=f"{where}: {given.name}",
            expected=expected,
            actual=array.shape,
        )
