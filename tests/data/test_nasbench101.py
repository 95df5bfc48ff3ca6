"""The reader of NAS-Bench-101's record file against files with known truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.graph_records import (
    EPOCHS,
    crc32c,
    framed,
    masked,
    message,
    record,
    unique_graphs,
    worth,
    write_records,
)

from hwnas.data.nasbench101 import masked_crc32c, read_records
from hwnas.errors import InputError

GRAPHS = unique_graphs(3)
GOOD = [[0.0] * 5, [54.0, 1.0, 0.5, 0.5, 0.5], [108.0, 2.0, 0.5, 0.5, 0.5]]


def test_checksums_are_those_of_the_standard() -> None:
    """RFC 3720, appendix B.4, and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    texts = [b"123456789", b"", bytes(32), b"987654321", bytes(range(200))]
    expected = [int.from_bytes(masked(text), "little") for text in texts]
    assert masked_crc32c(texts).tolist() == expected


def test_columns_are_what_was_written(tmp_path) -> None:
    records = read_records(write_records(tmp_path / "r.tfrecord", GRAPHS))
    assert list(records.places) == [graph.hash() for graph in GRAPHS]
    for place, graph in enumerate(GRAPHS):
        test = 100 * worth(graph)
        values = {name: values[place] for name, values in records.columns.items()}
        assert values[f"test_accuracy_{EPOCHS}"] == pytest.approx(test)
        assert values[f"validation_accuracy_{EPOCHS}"] == pytest.approx(test + 5)
        assert values[f"test_accuracy_{EPOCHS}_1"] == pytest.approx(test - 1)
        assert values[f"test_accuracy_{EPOCHS}_3"] == pytest.approx(test + 1)
        assert values[f"halfway_test_accuracy_{EPOCHS}"] == pytest.approx(test - 20)
        assert values[f"training_time_{EPOCHS}"] == 100 + len(graph.edges)
        assert values["trainable_parameters"] == 100_000 + place
        matrix, labels = records.graphs[place]
        assert matrix == "".join(str(value) for row in graph.matrix for value in row)
        assert labels.split(",")[1:-1] == list(graph.operators)


def test_graphs_that_were_trained_less_often_have_means_of_what_there_is(tmp_path) -> None:
    first, second, *_ = GRAPHS
    data = [record(first, message(1, GOOD)), record(second, message(1, GOOD), epochs=4)]
    data.append(record(second, message(1, [*GOOD[:2], [108.0, 2.0, 0.5, 0.5, 0.9]]), epochs=4))
    path = tmp_path / "r.tfrecord"
    path.write_bytes(b"".join(map(framed, data)))
    columns = read_records(path).columns
    np.testing.assert_allclose(columns["test_accuracy_108"], [50, np.nan])
    np.testing.assert_allclose(columns["test_accuracy_4"], [np.nan, 70])
    np.testing.assert_allclose(columns["test_accuracy_4_2"], [np.nan, 90])


def test_a_flipped_bit_anywhere_is_noticed(tmp_path, rng) -> None:
    whole = write_records(tmp_path / "r.tfrecord", GRAPHS[:1]).read_bytes()
    path = tmp_path / "broken.tfrecord"
    for at in {0, 3, 8, 12, len(whole) - 1, *rng.integers(len(whole), size=40).tolist()}:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        with pytest.raises(InputError, match=r"broken.tfrecord: byte \d"):
            read_records(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no records"),
        (b"arch,accuracy\n", "byte 0"),
        (framed(b"{}")[:-3], "ends within"),
        (framed(b"[]"), "not a record"),
        (framed(b"\xff"), "not a record"),
        (framed(b"[" * 10_000), "not a record"),
        (framed(json.dumps(["h", 108, "0100", "input,output", "!"]).encode()), "not a record"),
        (framed(json.dumps(["h", "8", "0100", "input,output", ""]).encode()), "not a record"),
        (framed(json.dumps(["h", 108, "0100", "input,output", ""]).encode()), "evaluations"),
        (framed(record(GRAPHS[0], message(1, GOOD[:2]))), "evaluations"),
        (framed(record(GRAPHS[0], message(1, [*GOOD[:2], [1.0, float("nan")]]))), "finite"),
    ],
)
def test_what_is_no_record_file_is_refused(tmp_path, content, words) -> None:
    path = tmp_path / "r.tfrecord"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_records(path)
    assert "r.tfrecord" in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "no.tfrecord")
