"""Copies a serialised ONNX model without its weights, so that parsing it takes little memory.

A model is one protobuf message (https://protobuf.dev/programming-guides/encoding). The message is
walked without being parsed as a whole, and large `raw_data` of tensors is not copied. In the copy,
such a tensor has two entries of `external_data` instead: a location that the caller chooses, and
the number of bytes that were left out. Its `data_location` stays as the file states it, because in
a message the last value of a field counts and the field may stand anywhere. Field numbers are those
of onnx.proto.
"""

from __future__ import annotations

from onnx import StringStringEntryProto

KEPT_BYTES = 1024
"""Weights and messages below this size are copied unchanged; shapes and axes are among them."""
MAX_DEPTH = 100
"""Limit on the nesting of messages, as in protobuf itself."""
RAW_BYTES = "hwnas_raw_bytes"
"""Key of the external-data entry with the number of bytes that were left out."""

RAW_DATA = 9
"""Number of the field `raw_data` in a `TensorProto`."""
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
# The tag of field 13, `external_data`.
_EXTERNAL_DATA = b"\x6a"


class WireError(ValueError):
    """The bytes are not a protobuf message; the text says what is wrong and at which byte."""


def without_weights(data: memoryview, location: str) -> bytes:
    """Copy a serialised model without the data of its large tensors.

    Args:
        data: the serialised model.
        location: the location that tensors without their data state in the copy.

    Raises:
        WireError: when the data are not a protobuf message, are truncated or nested too deeply.
    """
    return _Copy(data, location).message("Model", 0, len(data), 0)


class _Copy:
    """Copies messages of one serialised model."""

    def __init__(self, data: memoryview, location: str) -> None:
        self._data, self._location = data, location

    def message(self, kind: str, start: int, end: int, depth: int) -> bytes:
        """Copy the message of a kind in `MESSAGES` that lies between two bytes."""
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
        """The position after the number in a field that holds one."""
        if field == 0 or wire_type not in (0, 1, 5):
            raise WireError(f"no protobuf field before byte {at}")
        if wire_type == 0:
            return self._varint(at, end)[1]
        at += 8 if wire_type == 1 else 4
        if at > end:
            raise WireError(f"a number ends after byte {end}")
        return at

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A variable-length integer (base 128) and the position after it."""
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
        """The entries of a tensor whose raw data were left out."""
        fields: list[bytes] = []
        for key, value in (("location", self._location), (RAW_BYTES, str(length))):
            entry = StringStringEntryProto(key=key, value=value).SerializeToString()
            fields += [_EXTERNAL_DATA, _varint_bytes(len(entry)), entry]
        return b"".join(fields)


def _varint_bytes(value: int) -> bytes:
    """Encode a variable-length integer."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
