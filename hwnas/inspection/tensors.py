"""Validates tensors: their stored size is the declared one, and external data are in reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, TensorProto, TypeProto

from hwnas.errors import InputError
from hwnas.inspection.wire import RAW_BYTES

MAX_TENSOR_BYTES = 2**31
"""Limit on the size of a tensor by a declared or inferred shape."""

_T = TensorProto
BITS: dict[int, int] = {
    **dict.fromkeys((_T.DOUBLE, _T.INT64, _T.UINT64, _T.COMPLEX64), 64),
    **dict.fromkeys((_T.FLOAT, _T.INT32, _T.UINT32), 32),
    **dict.fromkeys((_T.FLOAT16, _T.BFLOAT16, _T.INT16, _T.UINT16), 16),
    **dict.fromkeys((_T.INT8, _T.UINT8, _T.BOOL), 8),
    **dict.fromkeys(
        (_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ, _T.FLOAT8E8M0), 8
    ),
    **dict.fromkeys((_T.INT4, _T.UINT4, _T.FLOAT4E2M1), 4),
    **dict.fromkeys((_T.INT2, _T.UINT2), 2),
    _T.COMPLEX128: 128,
}
"""Bits of an element by data type; strings have no fixed size."""

# Repeated fields that hold the elements in place of raw bytes; other types use `int32_data`.
_FIELDS: dict[int, str] = {
    **dict.fromkeys((_T.FLOAT, _T.COMPLEX64), "float_data"),
    **dict.fromkeys((_T.DOUBLE, _T.COMPLEX128), "double_data"),
    **dict.fromkeys((_T.UINT32, _T.UINT64), "uint64_data"),
    _T.INT64: "int64_data",
    _T.STRING: "string_data",
}
_VALUES = (*sorted(set(_FIELDS.values())), "int32_data")
# Complex elements take two entries of their field; types of 4 and 2 bits are packed into bytes.
_ENTRIES_PER_ELEMENT: dict[int, int] = {_T.COMPLEX64: 2, _T.COMPLEX128: 2}
_ELEMENTS_PER_ENTRY = {4: 2, 2: 4}


def subgraphs(attributes: Iterable[AttributeProto]) -> Iterator[GraphProto]:
    """The subgraphs among the attributes of a node, or among a function's default attributes."""
    for attribute in attributes:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors_of_attributes(attributes: Iterable[AttributeProto]) -> Iterator[TensorProto]:
    """All tensors in attributes, including those in subgraphs."""
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
        for pair in (*sparse, *attribute.sparse_tensors):
            yield from (pair.values, pair.indices)
        for graph in subgraphs([attribute]):
            yield from tensors_of_graph(graph)


def tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph, including those in its nodes and subgraphs."""
    yield from graph.initializer
    for pair in graph.sparse_initializer:
        yield from (pair.values, pair.indices)
    for node in graph.node:
        yield from tensors_of_attributes(node.attribute)


def tensors_of_function(function: FunctionProto) -> Iterator[TensorProto]:
    """All tensors of a function: in its nodes and in its default attributes."""
    yield from tensors_of_attributes(function.attribute_proto)
    for node in function.node:
        yield from tensors_of_attributes(node.attribute)


class TensorValidator:
    """Compares what tensors declare with the data that are stored.

    Attributes:
        path: path that the model has to be loaded from. External data are looked for in the folder
            of the given path, as runtimes do. If the first file is not there and the path is a
            symbolic link, they are looked for in the folder of the link's target.
        external_files: names of the files that hold external data, in the order found.
    """

    def __init__(self, path: Path, mark: str, placeholder: str) -> None:
        """Begin without tensors.

        Args:
            path: the model file. External data must be in its folder, or in that of its target if
                it is a symbolic link.
            mark: the location of tensors whose data were left out, see `without_weights`.
            placeholder: the location that every external tensor has after its validation.
        """
        self.path, self._mark, self._placeholder = path, mark, placeholder
        self.external_files: dict[str, None] = {}

    def validate(self, tensor: TensorProto) -> None:
        """Validate one tensor; its location is replaced if its data are external.

        Raises:
            InputError: when the stored data do not have the declared size, or are outside the
                model's folder.
        """
        where = f"{self.path}: tensor {tensor.name!r}"
        if tensor.data_type != _T.STRING and tensor.data_type not in BITS:
            raise InputError("unknown data type", where=where, actual=tensor.data_type)
        elements = _elements(tensor.dims, where)
        expected = -(-elements * BITS.get(tensor.data_type, 0) // 8)
        entries = [(entry.key, entry.value) for entry in tensor.external_data]
        is_external = tensor.data_location == _T.EXTERNAL
        if ("location", self._mark) in entries:
            is_twice = is_external or tensor.HasField("raw_data") or _has_values(tensor)
            if is_twice or len(entries) != 2:
                raise InputError("the values are stored twice", where=where)
            _require_size(int(dict(entries)[RAW_BYTES]), expected, "bytes", where)
            tensor.data_location = _T.EXTERNAL
            self._replace_location(tensor)
        elif is_external or entries:
            self._validate_external(dict(entries), expected, where)
            self._replace_location(tensor)
        elif tensor.HasField("raw_data"):
            _require_size(len(tensor.raw_data), expected, "bytes", where)
        else:
            _require_values(tensor, elements, where)

    def _replace_location(self, tensor: TensorProto) -> None:
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=self._placeholder)

    def _validate_external(self, entries: dict[str, str], expected: int, where: str) -> None:
        if not all(isinstance(text, str) for pair in entries.items() for text in pair):
            raise InputError("a string is not valid UTF-8", where=where, actual=entries)
        location = entries.get("location", "")
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            raise InputError(
                "external data outside the model's folder",
                where=where,
                expected="a relative path without `..`",
                actual=location or "no location",
            )
        followed = self.path.resolve()
        if not self.external_files and not (self.path.parent / location).exists():
            self.path = followed
        file = self.path.parent / location
        if not file.exists():
            raise InputError("external data are missing", where=where, actual=location)
        folders = (self.path.parent.resolve(), followed.parent)
        if not any(file.resolve().is_relative_to(folder) for folder in folders):
            raise InputError(
                "external data outside the model's folder",
                where=where,
                expected="no link that leads out of it",
                actual=location,
            )
        if not file.is_file():
            raise InputError(
                "external data are not in a regular file", where=where, actual=location
            )
        size = file.stat().st_size
        offset = _count(entries.get("offset", "0"), where)
        length = _count(entries.get("length", str(max(0, size - offset))), where)
        if offset + length > size:
            raise InputError(
                "external data past the end of its file",
                where=where,
                expected=f"at most {size} bytes in {location}",
                actual=f"offset {offset}, length {length}",
            )
        if "length" in entries or length < expected:
            _require_size(length, expected, "bytes", where)
        self.external_files[location] = None


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InputError(
            "the offset or length of external data is not a number", where=where, actual=text
        )
    return int(text)


def _elements(dims: Any, where: str) -> int:
    if any(dim < 0 for dim in dims):
        raise InputError("negative size", where=where, expected=">= 0", actual=list(dims))
    return math.prod(dims)


def _require_size(found: int, expected: int, unit: str, where: str) -> None:
    if found != expected:
        raise InputError(
            "the stored data do not have the declared size",
            where=where,
            expected=f"{expected} {unit}",
            actual=found,
        )


def _has_values(tensor: TensorProto) -> bool:
    return any(len(getattr(tensor, field)) for field in _VALUES)


def _require_values(tensor: TensorProto, elements: int, where: str) -> None:
    field = _FIELDS.get(tensor.data_type, "int32_data")
    packed = _ELEMENTS_PER_ENTRY.get(BITS.get(tensor.data_type, 0), 1)
    expected = -(-elements * _ENTRIES_PER_ELEMENT.get(tensor.data_type, 1) // packed)
    _require_size(len(getattr(tensor, field)), expected, "values", where)


def require_bounded(kind: TypeProto, where: str) -> None:
    """Refuse a declared shape with a negative size or of more than 2 GiB; open sizes count as 1.

    Raises:
        InputError: when a size is negative or the tensor is larger than 2 GiB.
    """
    if not kind.HasField("tensor_type"):
        return
    tensor = kind.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
    size = _elements(dims, where) * BITS.get(tensor.elem_type, 8) // 8
    if size > MAX_TENSOR_BYTES:
        raise InputError(
            "the shape is too large",
            where=where,
            expected=f"at most {MAX_TENSOR_BYTES} bytes",
            actual=f"{dims}, {size} bytes",
        )
