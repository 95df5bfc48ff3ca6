"""Reader of the record file of NAS-Bench-101.

Ying et al., "NAS-Bench-101: Towards Reproducible Neural Architecture Search", ICML 2019 (arXiv
1902.09635). The published files (`nasbench_only108.tfrecord`, `nasbench_full.tfrecord`) are
TFRecords: each record has a length, a checksum of the length, the data and a checksum of the data.
The data are a list in JSON: the graph's hash, the number of epochs, the matrix row by row, the
labels of the vertices, and a message `ModelMetrics` in base64. A graph has a record for each of its
trainings. Nothing in such a file is run, and no TensorFlow is needed.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hwnas.errors import InputError

SUFFIX = ".tfrecord"
MAX_RECORD_BYTES = 1 << 16
"""Largest accepted record; the published ones have about 400 bytes."""
BATCH = 4096
"""Number of records whose checksums are computed together."""
EVALUATIONS = {"halfway": 1, "final": 2}
"""Which evaluation of a training stands where; the first one is before the training."""
FIGURES = {
    "training_time": 1,
    "train_accuracy": 100,
    "validation_accuracy": 100,
    "test_accuracy": 100,
}
"""What an evaluation has, and its factor here: seconds, and accuracies in percent."""


@dataclass(frozen=True)
class Records:
    """The trainings of all graphs.

    Attributes:
        graphs: matrix (row by row, as digits) and labels (separated by commas) of each graph.
        places: where each graph's hash stands in the columns.
        columns: (graphs,) by name: `trainable_parameters`, and for each number of epochs
            `test_accuracy_108` and its like, the mean over the trainings, in percent or seconds;
            `halfway_test_accuracy_108` after half of the epochs; `test_accuracy_108_1` of the first
            training alone.
    """

    graphs: list[tuple[str, str]]
    places: dict[str, int]
    columns: dict[str, np.ndarray]


def read_records(
    path: Path, progress: Callable[[int, int, str], None] = lambda done, total, text: None
) -> Records:
    """Read a record file.

    Args:
        path: the file.
        progress: told the bytes read, all bytes, and the graphs found.

    Raises:
        InputError: when the file cannot be read, or a record (named by its byte) is damaged.
    """
    graphs: list[tuple[str, str]] = []
    places: dict[str, int] = {}
    parameters: list[int] = []
    trainings: dict[int, list[list[np.ndarray]]] = {}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for at, data in _checked(file, path):
                name, epochs, graph, message = _parse(data, f"{path}: byte {at}")
                if name not in places:
                    places[name] = len(graphs)
                    graphs.append(graph)
                    parameters.append(message.trainable_parameters)
                    progress(at, size, f"{len(graphs):,} graphs")
                of_epochs = trainings.setdefault(epochs, [])
                of_epochs.extend([] for _ in range(len(graphs) - len(of_epochs)))
                of_epochs[places[name]].append(_figures(message, f"{path}: byte {at}"))
    except OSError as error:
        raise InputError("the file cannot be read", where=str(path), actual=error) from None
    if not graphs:
        raise InputError("no records", where=str(path), expected="the benchmark's record file")
    columns = {"trainable_parameters": np.array(parameters, dtype=np.float64)}
    for epochs, of_graphs in sorted(trainings.items()):
        columns |= _columns(epochs, of_graphs, len(graphs))
    return Records(graphs, places, columns)


def _columns(epochs: int, of_graphs: list[list[np.ndarray]], graphs: int) -> dict[str, np.ndarray]:
    """The columns of one number of epochs; graphs without so many trainings have NaN."""
    most = max(map(len, of_graphs))
    values = np.full((graphs, most, len(EVALUATIONS), len(FIGURES)), np.nan)
    for graph, found in enumerate(of_graphs):
        values[graph, : len(found)] = np.array(found).reshape(-1, len(EVALUATIONS), len(FIGURES))
    known = (~np.isnan(values)).sum(axis=1)
    means = np.nansum(values, axis=1) / np.where(known, known, np.nan)
    columns = {}
    for i, evaluation in enumerate(EVALUATIONS):
        for j, figure in enumerate(FIGURES):
            name = f"{figure}_{epochs}" if evaluation == "final" else f"halfway_{figure}_{epochs}"
            columns[name] = means[:, i, j]
            for training in range(most):
                columns[f"{name}_{training + 1}"] = values[:, training, i, j]
    return columns


def _parse(data: bytes, where: str) -> tuple[str, int, tuple[str, str], Any]:
    """Hash, epochs, matrix and labels, and message of a record."""
    from google.protobuf.message import DecodeError

    expected = "[hash, epochs, matrix, labels, metrics in base64]"
    try:
        name, epochs, matrix, labels, metrics = json.loads(data)
        strings = all(isinstance(part, str) for part in (name, matrix, labels))
        if not strings or type(epochs) is not int or epochs < 1:
            raise InputError("not a record", where=where, expected=expected)
        message = _metrics_class().FromString(base64.b64decode(metrics, validate=True))
    except (ValueError, TypeError, RecursionError, binascii.Error, DecodeError):
        raise InputError("not a record", where=where, expected=expected) from None
    return name, epochs, (matrix, labels), message


def _figures(message: Any, where: str) -> np.ndarray:
    """The figures of a training's evaluations, one after the other."""
    found = message.evaluation_data
    if len(found) <= max(EVALUATIONS.values()):
        raise InputError(
            "evaluations are missing", where=where, expected="3 evaluations", actual=len(found)
        )
    values = np.array(
        [
            factor * getattr(found[place], figure)
            for place in EVALUATIONS.values()
            for figure, factor in FIGURES.items()
        ]
    )
    if not np.isfinite(values).all():
        raise InputError("not a number among the metrics", where=where, expected="finite numbers")
    return values


@cache
def _metrics_class() -> Any:
    """The class of the message `ModelMetrics`, in the benchmark's `model_metrics.proto`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="hwnas/nasbench101.proto", package="hwnas.nasbench101", syntax="proto2"
    )
    evaluation = file.message_type.add(name="EvaluationData")
    for number, name in enumerate(("current_epoch", *FIGURES), start=1):
        evaluation.field.add(
            name=name, number=number, type=field.TYPE_DOUBLE, label=field.LABEL_OPTIONAL
        )
    metrics = file.message_type.add(name="ModelMetrics")
    metrics.field.add(
        name="evaluation_data",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".hwnas.nasbench101.EvaluationData",
        label=field.LABEL_REPEATED,
    )
    metrics.field.add(
        name="trainable_parameters", number=2, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("hwnas.nasbench101.ModelMetrics")
    return message_factory.GetMessageClass(found)


def _checked(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """The first byte and the data of each record, with its checksums compared."""
    records = _records(file, path)
    while batch := list(islice(records, BATCH)):
        # Of each record the length with its checksum, and the data with theirs.
        texts = [text for _, head, data in batch for text in (head[:8], data[:-4])]
        stated = [struct.unpack("<I", part[-4:])[0] for _, *parts in batch for part in parts]
        wrong = np.flatnonzero(masked_crc32c(texts) != np.array(stated, dtype=np.uint32))
        if len(wrong):
            raise InputError(
                "a record is damaged, or this is no TFRecord",
                where=f"{path}: byte {batch[wrong[0] // 2][0]}",
                expected="data that agree with their checksum",
                mend="get the file again",
            )
        for at, _, data in batch:
            yield at, data[:-4]


def _records(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """The first byte of each record, its length and its data, both with their checksums."""
    at = 0
    while head := file.read(12):
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else MAX_RECORD_BYTES + 1
        if length > MAX_RECORD_BYTES:
            raise InputError(
                "no record begins here",
                where=f"{path}: byte {at}",
                expected=f"a TFRecord of at most {MAX_RECORD_BYTES} bytes",
                mend="get the file again",
            )
        data = file.read(length + 4)
        if len(data) < length + 4:
            raise InputError(
                "the file ends within a record", where=f"{path}: byte {at}", mend="get it again"
            )
        yield at, head, data
        at += 16 + length


@cache
def _crc_table() -> np.ndarray:
    """The remainders of all bytes by the polynomial of CRC-32C, 0x1EDC6F41 (RFC 3720)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


def masked_crc32c(texts: list[bytes]) -> np.ndarray:
    """The checksums that TFRecords have, computed side by side for texts of equal length.

    Returns:
        (texts,) uint32.
    """
    table, found = _crc_table(), np.zeros(len(texts), dtype=np.uint32)
    of_length: dict[int, list[int]] = {}
    for number, data in enumerate(texts):
        of_length.setdefault(len(data), []).append(number)
    for length, numbers in of_length.items():
        joined = b"".join(texts[number] for number in numbers)
        columns = np.frombuffer(joined, dtype=np.uint8).reshape(len(numbers), length).T
        crc = np.full(len(numbers), 0xFFFFFFFF, dtype=np.uint32)
        for column in columns:
            crc = table[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        crc = ~crc
        rotated = (crc >> np.uint32(15)) | (crc << np.uint32(17))
        found[numbers] = rotated + np.uint32(0xA282EAD8)
    return found
