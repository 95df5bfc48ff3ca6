"""Element types and shapes of a model's inputs, including sizes that the model leaves open."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.errors import InputError
from hwnas.inspection.process import Value

TEXT_BYTES = 100
"""Memory assumed for one short string and its reference in an object array."""
DTYPES: dict[str, type[np.generic]] = {
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
"""The numpy type of each ONNX element type that inputs can be generated for."""


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse the shapes of inputs, as given on the command line.

    Args:
        options: each `name:1x3x224x224` or `name:1,3,224,224`; a name may contain colons.

    Returns:
        Shapes by input name.

    Raises:
        InputError: when an option has another form, or an input is named twice.
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
    """Element type and shape of one model input.

    Attributes:
        name: name of the input in the graph.
        dtype: numpy type of its elements.
        sizes: its shape, with None at the batch dimension if that is open.
    """

    name: str
    dtype: type[np.generic]
    sizes: tuple[int | None, ...]

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape for a batch size."""
        return tuple(batch if size is None else size for size in self.sizes)

    @property
    def batch_axis(self) -> int | None:
        """Index of the open batch dimension, or None if every size is fixed."""
        return self.sizes.index(None) if None in self.sizes else None

    def size_bytes(self, batch: int) -> int:
        """Memory that an array of this input takes for a batch size."""
        is_text = self.dtype is np.object_
        element_bytes = TEXT_BYTES if is_text else np.dtype(self.dtype).itemsize
        return math.prod(self.shape(batch)) * element_bytes

    def random(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Draw random values for a batch size.

        Floating-point inputs are standard normal, uint8 is uniform over all values, and every
        other type is uniform over 0 and 1 (strings: "0" and "1"), which are valid indices of any
        table with two rows or more.
        """
        shape = self.shape(batch)
        if np.issubdtype(self.dtype, np.floating):
            if self.dtype is np.float32:
                return rng.standard_normal(shape, dtype=np.float32)
            return rng.standard_normal(shape).astype(self.dtype)
        if self.dtype is np.uint8:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        bits = rng.integers(0, 2, shape, dtype=np.int8)
        if self.dtype is np.object_:
            return bits.astype(str).astype(object)
        return bits.astype(self.dtype)


def resolve_sizes(
    value: Value,
    stated: tuple[int, ...] | None,
    array: np.ndarray | None,
    batch_symbols: Collection[Any],
    where: str,
) -> InputSizes:
    """Decide every size of one input.

    Sizes that the model declares are kept. The first dimension, if open, is the batch, and so is
    every dimension with the same symbol. Other open sizes come from the stated shape, or else from
    the array.

    Args:
        value: the input as the model declares it.
        stated: its shape as the user states it, or None.
        array: sample values of the input, or None.
        batch_symbols: names of the batch dimension in the model.
        where: the model file, for errors.

    Raises:
        InputError: when a size is unknown, contradicts the declared shape, or the element type
            is not supported.
    """
    where = f"{where}: input {value.name!r}"
    if value.dtype not in DTYPES:
        expected = f"a tensor of {', '.join(DTYPES)}"
        raise InputError(
            "cannot generate values for the input",
            where=where,
            expected=expected,
            actual=value.dtype,
        )
    known = stated if stated is not None else None if array is None else array.shape
    declared = value.shape if value.shape is not None else stated
    if declared is None:
        raise _unknown_size(value, "any number of dimensions", where)
    if known is not None and len(known) != len(declared):
        raise InputError("wrong number of dimensions", where=where, expected=declared, actual=known)
    _require_declared(stated, declared, where)
    sizes: list[int | None] = []
    for axis, size in enumerate(declared):
        if isinstance(size, int):
            sizes.append(size)
        elif axis == 0 or size in batch_symbols:
            sizes.append(None)
        elif known is None:
            raise _unknown_size(value, size or f"dimension {axis}", where)
        else:
            sizes.append(known[axis])
    return InputSizes(value.name, DTYPES[value.dtype], tuple(sizes))


def _require_declared(
    stated: tuple[int, ...] | None, declared: tuple[int | str | None, ...], where: str
) -> None:
    """Refuse a stated shape that contradicts a size which the model declares."""
    if stated is None:
        return
    for own, size in zip(stated, declared, strict=True):
        if isinstance(size, int) and own != size:
            raise InputError(
                "the shape differs from the one that the model declares",
                where=where,
                expected=declared,
                actual=stated,
            )


def _unknown_size(value: Value, what: str, where: str) -> InputError:
    example = "x".join(str(s if isinstance(s, int) else 1) for s in value.shape or (1, 3, 224, 224))
    return InputError(
        "the model leaves a size open",
        where=where,
        actual=what,
        mend=f"state it with --input {value.name}:{example}, or give samples with --data",
    )
