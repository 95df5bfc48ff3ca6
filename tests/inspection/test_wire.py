"""A copy without weights is otherwise equal, and damaged data raise the documented error."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from helpers.unchecked_models import BIG, field, model_of, node, value, with_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwnas.inspection.__main__ import describe_model
from hwnas.inspection.wire import KEPT_BYTES, RAW_BYTES, WireError, without_weights


def nested() -> ModelProto:
    """Large weights in the graph, in a constant and in a branch, and small ones beside them."""
    long = numpy_helper.from_array(np.arange(BIG, dtype=np.float32), "long")
    short = numpy_helper.from_array(np.array([2, 3]), "short")
    branch = helper.make_graph([node("Identity", "long", "b")], "b", [], [value("b")], [long])
    return model_of(
        node("Constant", "", "c", value=long),
        node("If", "x", "z", then_branch=branch, else_branch=branch),
        node("Add", "z c", "y"),
        stored=(long, short),
    )


def test_only_large_weights_are_left_out() -> None:
    model = nested()
    data = model.SerializeToString()
    copy = ModelProto.FromString(without_weights(memoryview(data), "there"))
    found = [copy.graph.initializer[0], copy.graph.node[0].attribute[0].t]
    found += [a.g.initializer[0] for a in copy.graph.node[1].attribute]
    expected = {"location": "there", RAW_BYTES: str(4 * BIG)}
    for tensor in found:
        assert {e.key: e.value for e in tensor.external_data} == expected
        assert not tensor.HasField("raw_data")
        tensor.CopyFrom(model.graph.initializer[0])
    found[1].name = model.graph.node[0].attribute[0].t.name
    assert copy == model
    assert len(without_weights(memoryview(data), "there")) < KEPT_BYTES * 2 < len(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**14), st.integers(0, 255), st.booleans())
def test_damaged_data_raise_no_other_error(at, byte, cut) -> None:
    data = bytearray(with_weights(BIG).SerializeToString())
    at = min(at, len(data) - 1)
    data[at] = byte
    with contextlib.suppress(WireError):
        without_weights(memoryview(bytes(data[: at + 1] if cut else data)), "there")


def test_zero_bytes_after_a_model_are_refused() -> None:
    with pytest.raises(WireError):
        without_weights(memoryview(model_of().SerializeToString() + bytes(2000)), "there")


def tensor_fields() -> list[TensorProto]:
    """The fields of a large tensor, each in a message of its own."""
    values = np.arange(BIG, dtype=np.float32)
    return [
        TensorProto(dims=[BIG]),
        TensorProto(data_type=TensorProto.FLOAT),
        TensorProto(name="w"),
        TensorProto(raw_data=values.tobytes()),
        TensorProto(data_location=TensorProto.DEFAULT),
        TensorProto(doc_string="from a merged file"),
    ]


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)))
def test_the_fields_of_a_tensor_may_stand_in_any_order(tmp_path_factory, order) -> None:
    """In a message the last value counts: a merged file states `data_location` after the data."""
    weight = b"".join(tensor_fields()[index].SerializeToString() for index in order)
    graph = model_of(node("Add", "x w", "y"), inputs=(value("x", "n", BIG),)).graph
    model = model_of()
    model.ClearField("graph")
    # 7 is the number of a model's graph, 5 that of a graph's initializer.
    body = graph.SerializeToString() + field(5, weight)
    folder = tmp_path_factory.mktemp("order")
    (folder / "placeholder").touch()
    (folder / "model.onnx").write_bytes(model.SerializeToString() + field(7, body))
    with contextlib.chdir(folder):
        found = describe_model(folder / "model.onnx", "mark", "placeholder")
    assert found["params"] == BIG
