"""Record files as NAS-Bench-101 has them, written byte by byte without the reader's code."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from hwnas.spaces.nasbench101_graphs import Graph, full_graphs

EPOCHS = 108
REPEATS = 3


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    """The checksum that a TFRecord has of some data."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def message(parameters: int, evaluations: Sequence[Sequence[float]]) -> bytes:
    """A `ModelMetrics`, of evaluations with epochs, seconds and three accuracies from 0 to 1."""
    parts = []
    for values in evaluations:
        fields = b"".join(
            bytes([number << 3 | 1]) + struct.pack("<d", value)
            for number, value in enumerate(values, start=1)
        )
        parts.append(b"\x0a" + bytes([len(fields)]) + fields)
    varint = b""
    while parameters >= 128:
        varint += bytes([parameters & 127 | 128])
        parameters >>= 7
    return b"".join(parts) + b"\x10" + varint + bytes([parameters])


def record(graph: Graph, metrics: bytes, epochs: int = EPOCHS) -> bytes:
    """The data of a record."""
    matrix = "".join(str(value) for row in graph.matrix for value in row)
    labels = ",".join(["input", *graph.operators, "output"])
    metrics_text = base64.b64encode(metrics).decode()
    return json.dumps([graph.hash(), epochs, matrix, labels, metrics_text]).encode()


def unique_graphs(vertices: int) -> list[Graph]:
    """One graph of each class, of up to so many vertices."""
    found: dict[str, Graph] = {}
    for count in range(2, vertices + 1):
        for graph in full_graphs(count, 9):
            found.setdefault(graph.hash(), graph)
    return list(found.values())


def worth(graph: Graph) -> float:
    """The test accuracy that a graph is given, from 0 to 1: edges are good, pools are bad."""
    convolutions = sum(name.startswith("conv3x3") for name in graph.operators)
    pools = graph.operators.count("maxpool3x3")
    return 0.5 + 0.05 * len(graph.edges) + 0.03 * convolutions - 0.04 * pools


def evaluations_of(graph: Graph, repeat: int) -> list[list[float]]:
    """Before, halfway through and after a training; the first training is a point too low."""
    test = worth(graph) + 0.01 * (repeat - 1)
    return [
        [0.0, 0.0, 0.1, 0.1, 0.1],
        [EPOCHS / 2, 50.0, 0.6, test - 0.1, test - 0.2],
        [EPOCHS, 100.0 + len(graph.edges), 1.0, test + 0.05, test],
    ]


def write_records(path: Path, graphs: Iterable[Graph]) -> Path:
    """A record file with the trainings of some graphs."""
    data = [
        framed(record(graph, message(100_000 + i, evaluations_of(graph, repeat))))
        for repeat in range(REPEATS)
        for i, graph in enumerate(graphs)
    ]
    path.write_bytes(b"".join(data))
    return path
