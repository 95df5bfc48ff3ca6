"""Models that runtimes take although the standard does not allow them are judged, with a note."""

from __future__ import annotations

import pytest
from helpers import odd_models
from helpers.model_checks import observed
from helpers.small_models import saved
from onnx import TensorProto, helper


def model():
    return odd_models.binary(as_probability=True)


def without_shape():
    changed = model()
    changed.graph.output[0].type.tensor_type.ClearField("shape")
    return changed


def with_the_domain_spelt_out():
    changed = model()
    for node in changed.graph.node:
        node.domain = "ai.onnx"
    return changed


def with_a_size_of_minus_one():
    changed = model()
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    return changed


def without_a_name():
    changed = model()
    changed.graph.name = ""
    return changed


def with_sparse_weights():
    changed = model()
    dense = changed.graph.initializer.pop()
    values = helper.make_tensor(dense.name, TensorProto.FLOAT, [2], [0.5, -1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [2], [0, 3])
    sparse = helper.make_sparse_tensor(values, indices, dense.dims)
    changed.graph.sparse_initializer.append(sparse)
    return changed


def test_sparse_weights_have_their_shape(tmp_path) -> None:
    behaviour, gates = observed(saved(with_sparse_weights(), tmp_path / "model.onnx"))
    assert behaviour.contradiction is None
    assert gates["shapes"] == gates["parity: unoptimised"] == "pass"


@pytest.mark.parametrize(
    "changed, words",
    [
        (without_shape(), "'y' is declared without a shape"),
        (with_the_domain_spelt_out(), "spelt out as 'ai.onnx'"),
        (with_a_size_of_minus_one(), "'x' has a size of -1"),
        (without_a_name(), "the graph has no name"),
    ],
)
def test_what_the_runtime_takes_is_judged_with_a_note(changed, words, tmp_path) -> None:
    behaviour, gates = observed(saved(changed, tmp_path / "model.onnx"))
    assert any(words in note for note in behaviour.notes)
    assert gates["dynamic_batch"] == gates["parity: unoptimised"] == "pass"
    assert set(gates.values()) <= {"pass", "skipped", "reported"}
