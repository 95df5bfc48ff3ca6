"""Element types and shapes of a model's inputs, and random values for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hwnas.latency_tables.runtimes.onnx_values import NARROW, wide_dtype

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
    **{name.lower(): wide_dtype(name) for name in NARROW.values()},
}
"""The numpy type of each ONNX element type that inputs can be generated for.

Numbers in formats that numpy lacks are held in longer ones; the runtime rounds them.
"""


@dataclass(frozen=True)
class InputSizes:
    """Element type and shape of one model input.

    Attributes:
        name: name of the input in the graph.
        dtype: numpy type of its elements.
        sizes: its shape, with None at the batch dimension if that is open.
        below: for an index, the size of what it indexes; 0 stands for the batch size.
        sample_of_row: name of the input that tells which sample each row belongs to, for rows of
            which samples have different numbers, such as regions of images; else None.
    """

    name: str
    dtype: type[np.generic]
    sizes: tuple[int | None, ...]
    below: int | None = None
    sample_of_row: str | None = None

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape for a batch size."""
        return tuple(batch if size is None else size for size in self.sizes)

    @property
    def batch_axis(self) -> int | None:
        """Index of the open batch dimension, or None if every size is fixed."""
        return self.sizes.index(None) if None in self.sizes else None

    @property
    def is_floating(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return bool(np.issubdtype(self.dtype, np.floating))

    def size_bytes(self, batch: int) -> int:
        """Memory that an array of this input takes for a batch size."""
        is_text = self.dtype is np.object_
        element_bytes = TEXT_BYTES if is_text else np.dtype(self.dtype).itemsize
        return math.prod(self.shape(batch)) * element_bytes

    def random(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """Draw random values for a batch size.

        Floating-point inputs are standard normal and indices uniform over what they index. Of
        other inputs, uint8 and uint16 are uniform over all values, and every other type over 0 and
        1 (strings: "0" and "1").
        """
        shape = self.shape(batch)
        if self.below is not None and np.issubdtype(self.dtype, np.integer):
            below = min(self.below or batch, 2 ** (8 * np.dtype(self.dtype).itemsize - 1))
            return rng.integers(0, below, shape).astype(self.dtype)
        if self.is_floating:
            if self.dtype is np.float32:
                return rng.standard_normal(shape, dtype=np.float32)
            return rng.standard_normal(shape).astype(self.dtype)
        if self.dtype in (np.uint8, np.uint16):
            largest = 255 if self.dtype is np.uint8 else 65535
            return rng.integers(0, largest, shape, dtype=self.dtype, endpoint=True)
        bits = rng.integers(0, 2, shape, dtype=np.int8)
        if self.dtype is np.object_:
            return bits.astype(str).astype(object)
        return bits.astype(self.dtype)
