"""A serialised ONNX model without its weights: the graph is small, so judging it takes little.

A model is one protobuf message (https://protobuf.dev/programming-guides/encoding). It is walked in
its file, and long `raw_data` of tensors is left where it is: in the copy that is returned, such a
tensor has external data at a location that only the caller knows, and the length of what was left
out as a further entry. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from onnx import StringStringEntryProto

KEPT_BYTES = 1024
"""Weights and messages below this size are copied as they are: shapes and axes among them."""
MAX_DEPTH = 100
"""Of messages in messages; protobuf's own limit."""
RAW_BYTES = "hwnas_raw_bytes"
"""Key of the entry that holds the length of what was left out."""

RAW_DATA = 9
MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
# Field 14, data_location, is EXTERNAL.
_IS_EXTERNAL = b"\x70\x01"
_EXTERNAL_DATA = b"\x6a"


class WireError(ValueError):
    """The bytes are no protobuf message; says what is wrong and at which byte."""


def without_weights(data: memoryview, location: str) -> bytes:
    """A copy of a serialised model without its long tensors.

    Args:
        data: the file.
        location: where tensors that were left out say that their bytes are.

    Raises:
        WireError: when the file is no protobuf message, is cut short or nested too deeply.
    """
    return _Copy(data, location).message("Model", 0, len(data), 0)


class _Copy:
    def __init__(self, data: memoryview, location: str) -> None:
        self._data, self._location = data, location

    def message(self, kind: str, start: int, end: int, depth: int) -> bytes:
        if depth > MAX_DEPTH:
            raise WireError(f"messages nested more than {MAX_DEPTH} deep")
        parts: list[bytes | memoryview] = []
        copied = at = start
        while at < end:
            field_at = at
            tag, at = self._varint(at, end)
            field, wire_type = tag >> 3, tag & 7
            if wire_type != 2 or field == 0:
                at = self._after_number(field, wire_type, at, end)
                continue
            length, at = self._varint(at, end)
            if length > end - at:
                raise WireError(f"{length} bytes announced at byte {field_at}, {end - at} there")
            inner = MESSAGES[kind].get(field)
            if length >= KEPT_BYTES and kind == "Tensor" and field == RAW_DATA:
                parts += [self._data[copied:field_at], self._left_out(length)]
                copied = at + length
            elif length >= KEPT_BYTES and inner is not None:
                body = self.message(inner, at, at + length, depth + 1)
                parts += [self._data[copied:field_at], _varint_bytes(tag)]
                parts += [_varint_bytes(len(body)), body]
                copied = at + length
            at += length
        parts.append(self._data[copied:end])
        return b"".join(parts)

    def _after_number(self, field: int, wire_type: int, at: int, end: int) -> int:
        """The byte after a field that is a number."""
        if field == 0 or wire_type not in (0, 1, 5):
            raise WireError(f"no protobuf field before byte {at}")
        if wire_type == 0:
            return self._varint(at, end)[1]
        at += 8 if wire_type == 1 else 4
        if at > end:
            raise WireError(f"a number ends after byte {end}")
        return at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number in base 128 and the byte after it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise WireError(f"a number ends after byte {end}")
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise WireError(f"a number of more than 10 bytes before byte {at}")

    def _left_out(self, length: int) -> bytes:
        fields = [_IS_EXTERNAL]
        for key, value in (("location", self._location), (RAW_BYTES, str(length))):
            entry = StringStringEntryProto(key=key, value=value).SerializeToString()
            fields += [_EXTERNAL_DATA, _varint_bytes(len(entry)), entry]
        return b"".join(fields)


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
